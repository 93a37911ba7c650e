"""PostgreSQL + LocalExecutor: one training, and what it is trained on dies or goes away under it, part by part."""

import json
import os
import subprocess
import time

import pytest

from test.dag.conftest import HOME, REAL_PYTHON, ROOT
from test.deploy.servers import Deployment, processes_of

AWAY_SECONDS = int(os.environ.get("MTC_AWAY_SECONDS", "45"))
"""How long the API server is away: with Airflow's own settings a training would be killed after 28 s."""
RUN = "faults"


@pytest.fixture(scope="module")
def airflow(postgres):
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "100",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    }
    with Deployment(HOME / "local-executor", postgres.new_database("local_executor"), **settings) as deployment:
        deployment.log_in("", "")
        yield deployment


@pytest.fixture(scope="module")
def training(airflow):
    """A run that trains until it is asked to end."""
    airflow.start_training(RUN, f"storage.uri={airflow.home / 'storage'}", "storage.keep_last=3", "train.snapshot_every=100")
    return airflow


@pytest.mark.timeout(900)
def test_a_training_outlives_scheduler_database_and_api_server(training, postgres):
    # the scheduler's first process alone, and then all of it with the workers of its executor
    for all_of_it in (False, True):
        training.kill("scheduler", all_of_it)
        training.more_steps(RUN)
        training.start("scheduler")
        time.sleep(10)

    postgres.stop("immediate")
    training.more_steps(RUN)
    time.sleep(10)
    postgres.start()
    training.wait_for(lambda: training.tend() or training.healthy(), "Airflow on the database that is back", 120)
    training.more_steps(RUN)

    training.freeze("api-server", AWAY_SECONDS)
    training.more_steps(RUN)

    # The run comes to its end, as somebody wishes. A restarted scheduler takes a task away from the workers of the one before, which outlived it:
    # they stop the trainer, it saves, and the next try has resumed or is about to.
    training.wait_for(lambda: training.state(RUN, "train") == "running" and end_after(training, 60), "a trainer that takes a wish", 240)
    assert training.end_of(RUN) == "success", training.output()[-20000:]
    steps = [line["step"] for line in training.journal(RUN)]
    assert steps == list(range(1, len(steps) + 1))  # none lost, none repeated
    ends = [line["status"] for line in training.journal(RUN, "end")]
    assert ends == ["stopped"] * (len(ends) - 1) + ["success"]
    assert len(training.journal(RUN, "start")) == len(ends) <= 3  # one trainer after the other, each of which has saved
    assert training.found(RUN, "train")["try_number"] <= 4  # of 6: each of two killed schedulers costs at most one, and a stopped trainer another


@pytest.mark.timeout(900)
def test_two_machines_train_together_and_where_one_is_lost_both_try_again(airflow):
    run = "two-machines"
    rules = [
        f"storage.uri={airflow.home / 'storage'}",
        "storage.keep_last=3",
        "train.snapshot_every=20",
        "train.batch_size=2",
        "distributed.patience=240",
    ]
    airflow.start_training(run, *rules, world_size=2, machines=2)
    airflow.wait_for(lambda: len(airflow.journal(run)) > 25, "a checkpoint", 120)
    job = json.loads((airflow.run_dir(run) / "logs" / "train_with_0.job").read_text())
    for process in processes_of({job["pid"]}):
        process.kill()
    airflow.wait_for(lambda: len(airflow.journal(run, "start")) == 2, "another try of both", 240)
    airflow.wait_for(lambda: end_after(airflow, 30, run), "a trainer that takes a wish", 240)
    assert airflow.end_of(run) == "success", airflow.output()[-20000:]
    assert [line["ranks"] for line in airflow.journal(run, "start")] == [2, 2]
    assert [line["status"] for line in airflow.journal(run, "end")] == ["failed", "success"]
    later = {line["step"]: line for line in airflow.journal(run)}  # of a step that was made twice the second counts
    assert sorted(later) == list(range(1, max(later) + 1))
    states = {task: state for task, state, _ in airflow.tasks(run)}
    assert (states["train"], states["train_with"], states["report"]) == ("success", "success", "success")


def end_after(airflow, more, run=RUN):
    """Ask the trainer to end so many steps from now; returns whether it has heard."""
    last = airflow.journal(run)[-1]["step"] + more
    command = [REAL_PYTHON, "-m", "tasks.control", "--run-dir", str(airflow.run_dir(run)), "steps", str(last)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
