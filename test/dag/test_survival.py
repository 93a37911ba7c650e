"""Parts of a running Airflow die or go away while a training runs: it is trained on, by one trainer, and the run succeeds."""

import contextlib
import os
import signal
import time

import psutil
import pytest

from test.dag.conftest import HOME, wait_for
from test.dag.local_airflow import running

pytestmark = pytest.mark.timeout(900)  # what is waited for has limits of its own

AWAY_SECONDS = int(os.environ.get("MTC_AWAY_SECONDS", "45"))
"""How long the API server is away: with Airflow's own settings a training would be killed after 28 s."""


@pytest.fixture(scope="module")
def airflow():
    home = HOME / "survival"
    home.mkdir()
    settings = {
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "100",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }
    with running(home, AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL="10", **settings) as local:
        yield local


def named(airflow, *words):
    """The processes of this Airflow whose command lines have all the words."""
    found = []
    for process in airflow.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join([process.name(), *process.cmdline()])
            found += [process] if all(word in line for word in words) else []
    return found


def let_it_end(airflow, run_id, pid):
    """Release the training that waits, and see the run succeed with the trainer it began with."""
    (airflow.steps.runs / "release").touch()
    try:
        wait_for(lambda: airflow.state(run_id) in ("success", "failed"), "the end of the run", 240)
    finally:
        (airflow.steps.runs / "release").unlink()
    assert airflow.state(run_id) == "success"
    assert [start["pid"] for start in airflow.steps.starts("train")][-1] == pid


def tries(airflow, run_id):
    return airflow.found(run_id, "train")["try_number"]


def task_processes(trainer):
    """(task runner, its supervisor) of the task that has started a trainer, by way of a shell that keeps its exit code."""
    runner = psutil.Process(trainer).parent().parent()
    assert "airflow worker" in " ".join(runner.cmdline())
    return runner, runner.parent()


def test_a_killed_task_process_costs_a_try_and_no_step(airflow):
    pid = airflow.start_training("runner")
    runner, _ = task_processes(pid)
    runner.kill()
    wait_for(lambda: tries(airflow, "runner") == 2, "another try", 120)
    let_it_end(airflow, "runner", pid)
    assert len([s for s in airflow.steps.starts("train") if s["pid"] == pid]) == 1


def test_an_api_server_that_is_away_costs_nothing(airflow):
    pid = airflow.start_training("away")
    servers = named(airflow, "airflow api_server")
    assert servers
    for process in servers:
        process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY_SECONDS)  # being away for so long is what is tested
    for process in servers:
        process.send_signal(signal.SIGCONT)
    let_it_end(airflow, "away", pid)
    assert tries(airflow, "away") == 1


def test_airflow_that_is_killed_and_started_again_follows_the_trainer_that_ran_on(airflow):
    pid = airflow.start_training("restart")
    airflow.kill_all()
    assert psutil.pid_exists(pid)
    airflow.start()
    airflow.wait_until_ready()
    wait_for(lambda: tries(airflow, "restart") == 2, "another try", 240)
    let_it_end(airflow, "restart", pid)


def test_a_killed_supervisor_costs_a_try_and_no_step(airflow):
    pid = airflow.start_training("supervisor")
    runner, supervisor = task_processes(pid)
    supervisor.kill()
    runner.kill()
    wait_for(lambda: tries(airflow, "supervisor") == 2, "another try", 300)
    let_it_end(airflow, "supervisor", pid)
