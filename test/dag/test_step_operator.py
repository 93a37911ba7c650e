"""One try of a task: how the operator starts, follows, finds again, stops and judges the command of a step."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from mtc_airflow import detached, endings, environment, params, run_directory, step_operator
from test.dag.conftest import ROOT, wait_for


class Store:
    """The state that Airflow keeps for a task over its tries, in a file: a try that is killed leaves it behind."""

    def __init__(self, path):
        self.path = path

    def _all(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key, default=None):
        return self._all().get(key, default)

    def set(self, key, value, retention=None):
        self.path.write_text(json.dumps({**self._all(), key: value}))

    def delete(self, key):
        self.path.write_text(json.dumps({k: v for k, v in self._all().items() if k != key}))


@pytest.fixture
def context(steps):
    store = Store(steps.runs / "store.json")
    values = {name: param.value for name, param in params.form().items()}
    return {"params": values, "dag": SimpleNamespace(dag_id="mtc_train"), "run_id": "r", "task_state_store": store, "ti": None}


@pytest.fixture
def train():
    return new_try()


def new_try():
    return step_operator.StepOperator(task_id="train", command="train")


def execute(operator, context):
    """What Airflow's task runner does."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    ExecutorSafeguard.tracker.set(operator)
    return operator.execute(context)


def in_background(operator, context):
    """Execute a try in a thread; returns (thread, list that gets its exception or result)."""
    outcome = []

    def work():
        try:
            outcome.append(execute(operator, context))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, outcome


def test_result_is_the_run_directory_and_the_small_figures(steps, context, train):
    result = execute(train, context)
    assert result == {"run_dir": str(steps.runs / "mtc_train" / "r"), "figures": {"answer": 42}}


def test_after_success_nothing_is_remembered_so_that_a_cleared_task_runs_again(steps, context, train):
    execute(train, context)
    execute(new_try(), context)
    assert len(steps.starts("train")) == 2
    assert context["task_state_store"].get("command") is None


def test_output_is_in_the_task_log_without_what_a_progress_bar_overwrote(steps, context, train, monkeypatch):
    lines = []
    log = SimpleNamespace(**{level: lambda form, *a, **k: lines.append(form % a) for level in ("debug", "info", "warning")})
    monkeypatch.setattr(type(train), "log", log)
    execute(train, context)
    assert lines[-2:] == ["step train begins", "no newline at the end"]


def test_a_users_mistake_is_told_in_the_steps_own_words_and_not_tried_again(steps, context, train):
    steps.plan(train=["user_error"])
    with pytest.raises(AirflowFailException, match="^train.steps=0: must be above 0$"):
        execute(train, context)


def test_a_mistake_that_left_no_record_is_read_from_the_output(steps, context, train):
    (steps.runs / "mtc_train" / "r" / "steps").mkdir(parents=True)
    (steps.runs / "mtc_train" / "r" / "steps" / "train.json").write_text('{"status": "user_error", "error": "of another day", "started": 1}')
    python = steps.runs / "python"
    python.write_text("#!/bin/sh\necho 'error: config gone is neither a preset nor a file' >&2\nexit 2\n")
    with pytest.raises(AirflowFailException, match="^config gone is neither a preset nor a file$"):
        execute(train, context)


def test_a_run_that_somebody_else_trains_is_told_with_its_holder_and_not_tried_again(steps, context, train):
    held = (
        "/runs/r/.lock is held by another python -m tasks.train (process 7 on host, since 2026-01-01 00:00:00): "
        "stop it (it saves first), or choose another --run-dir"
    )
    (steps.runs / "python").write_text(f"#!/bin/sh\necho 'error: {held}' >&2\nexit 2\n")  # the run's records are the holder's
    with pytest.raises(AirflowFailException) as caught:
        execute(train, context)
    assert str(caught.value) == held


def test_figures_of_a_training_come_through_as_numbers_that_json_knows(tmp_path):
    (tmp_path / "steps").mkdir()
    figures = {"step": 60, "loss": float("nan"), "early_stop": True, "best": [40], "skipped": 1, "bad_samples": 2, "seconds": 34.5, "resumed": False}
    figures.update(checkpoint="/runs/r/checkpoints/step-00000060", uploaded="s3://bucket/r/checkpoints/step-00000060")
    (tmp_path / "steps" / "train.json").write_text(json.dumps({"figures": figures}))
    found = run_directory.small_figures(tmp_path, "train")
    assert found == {**figures, "loss": None}
    json.dumps(found, allow_nan=False)


def test_further_arguments_follow_those_of_the_run(steps, context):
    execute(step_operator.StepOperator(task_id="train", command="train", arguments=["--take-over"]), context)
    assert steps.starts("train")[0]["argv"][-3:] == ["--run-dir", str(steps.runs / "mtc_train" / "r"), "--take-over"]


def test_a_failure_is_for_another_try_and_says_why(steps, context, train):
    steps.plan(train=["fail"])
    with pytest.raises(AirflowException, match="exit code 1: RuntimeError: the disk is on fire; see .*train.log") as caught:
        execute(train, context)
    assert not isinstance(caught.value, AirflowFailException)


def test_a_missing_interpreter_is_said_in_one_sentence(steps, context, train, monkeypatch):
    monkeypatch.setenv("MTC_PYTHON", "/nowhere/python")
    with pytest.raises(AirflowFailException, match="the training interpreter /nowhere/python is missing: run `make setup`, or set MTC_PYTHON"):
        execute(train, context)


def test_a_stop_lets_the_step_save_first_and_is_not_tried_again(steps, context, train):
    steps.plan(train=["wait"])
    thread, outcome = in_background(train, context)
    wait_for(lambda: steps.starts("train"), "the training")
    train.on_kill()
    thread.join(30)
    assert (steps.runs / "mtc_train" / "r" / "checkpoint").read_text() == "saved"
    assert isinstance(outcome[0], AirflowFailException)
    assert "has saved" in str(outcome[0])


def test_ctrl_c_lets_the_step_save_first_and_is_not_tried_again(steps, context, train):
    steps.plan(train=["wait"])
    interrupt = threading.Thread(target=lambda: wait_for(lambda: steps.starts("train"), "the training") and os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(AirflowFailException, match="stopped by Ctrl-C: train has saved"):
        execute(train, context)
    interrupt.join()
    assert (steps.runs / "mtc_train" / "r" / "checkpoint").read_text() == "saved"


def test_a_stop_by_something_else_is_for_another_try(steps, context, train):
    steps.plan(train=["wait"])
    thread, outcome = in_background(train, context)
    os.kill(wait_for(lambda: steps.starts("train"), "the training")[0]["pid"], signal.SIGTERM)
    thread.join(30)
    assert isinstance(outcome[0], endings.StepFailed)


def test_a_killed_command_is_for_another_try_and_memory_is_mentioned(steps, context, train):
    steps.plan(train=["wait"])
    thread, outcome = in_background(train, context)
    os.kill(wait_for(lambda: steps.starts("train"), "the training")[0]["pid"], signal.SIGKILL)
    thread.join(30)
    assert isinstance(outcome[0], endings.StepFailed)
    assert "was killed (out of memory" in str(outcome[0])


def killed_try(context):
    """A try whose process is killed while its command runs."""
    pid = os.fork()
    if pid == 0:
        try:
            execute(new_try(), context)
        finally:
            os._exit(0)
    return pid


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_killed_worker_the_next_try_goes_on_with_the_same_command(steps, context, train):
    steps.plan(train=["wait"])
    pid = killed_try(context)
    wait_for(lambda: context["task_state_store"].get("command") and steps.starts("train"), "the training")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    thread, outcome = in_background(train, context)
    (steps.runs / "release").touch()
    thread.join(30)
    assert outcome[0]["figures"] == {"answer": 42}
    assert len(steps.starts("train")) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_command_that_airflow_forgot_is_found_all_the_same(steps, context, train):
    steps.plan(train=["wait"])
    pid = killed_try(context)
    wait_for(lambda: context["task_state_store"].get("command") and steps.starts("train"), "the training")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    context["task_state_store"].delete("command")
    thread, outcome = in_background(train, context)
    wait_for(lambda: train._job, "the try to find the command")  # one that has ended is not looked for
    (steps.runs / "release").touch()
    thread.join(30)
    assert outcome[0]["figures"] == {"answer": 42}
    assert len(steps.starts("train")) == 1


def test_a_cleared_task_waits_for_the_old_command_to_save_and_starts_again(steps, context, train):
    steps.plan(train=["wait", "ok"])
    (steps.runs / "slow_save").touch()
    old, old_outcome = in_background(train, context)
    wait_for(lambda: steps.starts("train"), "the training")
    train.on_kill()
    new, new_outcome = in_background(new_try(), context)
    (steps.runs / "slow_save").unlink()
    old.join(30)
    new.join(30)
    assert isinstance(old_outcome[0], AirflowFailException)
    assert new_outcome[0]["figures"] == {"answer": 42}
    assert len(steps.starts("train")) == 2


def test_a_timeout_stops_the_command(steps, context, train, monkeypatch):
    steps.plan(train=["wait"])

    def out_of_time(seconds):
        if steps.starts("train"):
            raise AirflowTaskTimeout

    monkeypatch.setattr(step_operator.time, "sleep", out_of_time)
    with pytest.raises(AirflowTaskTimeout):
        execute(train, context)
    monkeypatch.undo()
    train.on_kill()  # as Airflow does
    wait_for((steps.runs / "mtc_train" / "r" / "checkpoint").exists, "the checkpoint")


def test_a_command_that_ends_before_anybody_looks_is_not_taken_for_running(tmp_path, monkeypatch):
    class Ended(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Ended)
    job = detached.start(["/bin/sh", "-c", "exit 7"], prefix=tmp_path / "x", cwd=tmp_path, env=os.environ, owner="test")
    assert detached.status(job) == 7
    assert detached.status(detached.last(tmp_path / "x")) == 7


def test_a_job_of_an_earlier_boot_is_lost_and_not_mistaken_for_another_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    job = {"pid": process.pid, "ticks": detached._start_ticks(process.pid), "boot": detached._boot(), "prefix": str(tmp_path / "x")}
    assert detached.status(job) == detached.RUNNING
    assert detached.status({**job, "boot": "host another-boot"}) == detached.LOST
    assert detached.status({**job, "ticks": "1"}) == detached.LOST
    process.communicate(b"\n")
    assert detached.status(job) == detached.LOST


def test_no_secret_of_airflow_and_no_path_of_its_interpreter_reaches_a_step(steps, context, train, monkeypatch):
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("AIRFLOW_CONN_MTC_S3", "hunter2")
    monkeypatch.setenv("_AIRFLOW_WWW_USER_PASSWORD", "hunter2")
    monkeypatch.setenv("PYTHONHOME", "/wrong")
    monkeypatch.setenv("VIRTUAL_ENV", "/wrong")
    monkeypatch.setenv("ASCEND_HOME", "/usr/local/Ascend")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "plugins"), str(ROOT), "/usr/local/Ascend/python", sys.prefix + "/lib"]))
    found = environment.clean_environment()
    assert "hunter2" not in json.dumps(found)
    assert not [name for name in found if "AIRFLOW" in name or name == "VIRTUAL_ENV"]
    assert {name for name in found if name.startswith("PYTHON")} == {"PYTHONPATH", "PYTHONUNBUFFERED"}
    assert found["PYTHONPATH"] == f"{ROOT}:/usr/local/Ascend/python"
    assert found["ASCEND_HOME"] == "/usr/local/Ascend"
    monkeypatch.delenv("PYTHONHOME")  # it would break the shell's Python, were it passed on to this one
    execute(train, context)
    assert steps.starts("train")[0]["environ"]["PYTHONPATH"] == f"{ROOT}:/usr/local/Ascend/python"


def test_a_record_of_an_earlier_try_is_not_taken_for_this_ones(steps, context, train):
    steps.plan(train=["fail"])
    with pytest.raises(AirflowException):
        execute(train, context)
    job = detached.last(run_directory.log_prefix(steps.runs / "mtc_train" / "r", "train"))
    assert run_directory.error(job, "train") == "RuntimeError: the disk is on fire"
    assert run_directory.error({**job, "started": job["started"] + 100}, "train") == ""


def test_running_commands_are_found_by_their_airflow_home(steps, context, train):
    steps.plan(train=["wait"])
    thread, _ = in_background(train, context)
    wait_for(lambda: steps.starts("train"), "the training")
    mine = list(detached.running(environment.runs(), str(environment.airflow_home())))
    assert [job["prefix"] for job in mine] == [str(steps.runs / "mtc_train" / "r" / "logs" / "train")]
    assert list(detached.running(environment.runs(), "another")) == []
    (steps.runs / "release").touch()
    thread.join(30)
    assert list(detached.running(environment.runs(), str(environment.airflow_home()))) == []
