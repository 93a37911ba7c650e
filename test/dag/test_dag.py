"""The DAG: its shape, its form, and whole runs of it with played steps."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import ParamValidationError

from mtc_airflow import detached, leftovers, params, run_directory
from test.dag.conftest import ROOT, wait_for

ALONE = {"world_size": 1, "machines": 1}
"""Said each time: what a run of `dag.test` is told becomes the default of those after it, for half a minute."""


def ran(dag, **conf):
    """Run the DAG to its end; return (state, {task: state}, run directory)."""
    run = dag.test(run_conf={**ALONE, **conf})
    states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    return str(run.state), states, run_directory.run_directory("mtc_train", run.run_id)


@pytest.fixture
def impatient(dag, monkeypatch):
    """Tries follow each other at once."""
    for task in dag.tasks:
        monkeypatch.setattr(task, "retry_delay", timedelta(seconds=0))
    return dag


def test_a_trainer_that_airflow_has_lost_for_good_is_stopped_at_the_end_of_the_run(tmp_path, monkeypatch):
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3)); print('up', flush=True); time.sleep(600)"
    run_dir = tmp_path / "run"
    job = detached.start([sys.executable, "-c", program], prefix=run_dir / "logs" / "train", cwd=tmp_path, env=os.environ, owner="o")
    wait_for(lambda: "up" in (run_dir / "logs" / "train.log").read_text(), "the trainer")
    assert leftovers.stop(run_dir) == ["train"]
    assert detached.status(job) == 3
    assert leftovers.stop(run_dir) == []


def test_tasks_follow_each_other_from_validation_to_the_report(dag):
    before = {task.task_id: task.upstream_task_ids for task in dag.tasks}
    assert before == {
        "validate": set(),
        "fetch.coco": {"validate"},
        "fetch.snapshot": {"validate"},
        "preprocess.shards": {"fetch.coco", "fetch.snapshot"},
        "preprocess.masks": {"preprocess.shards"},
        "preprocess.merge": {"preprocess.masks"},
        "train": {"preprocess.merge"},
        "machines": {"preprocess.merge"},
        "train_with": {"machines"},
        "evaluate": {"train"},
        "report": {"evaluate"},
        "clean_up": {"validate", "report", "train_with"},
    }
    assert dag.get_task("validate").is_setup
    assert dag.get_task("clean_up").is_teardown


def test_dag_runs_on_request_alone_and_one_run_at_a_time(dag):
    assert dag.schedule is None
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.is_paused_upon_creation is False
    assert dag.doc_md
    assert dag.owner == "mtc"


def test_all_tasks_are_tried_again_and_training_most(dag):
    assert all(task.retries >= 2 for task in dag.tasks)
    after_skipped = set(dag.task_ids) - {"validate", "fetch.coco", "fetch.snapshot", "clean_up"}
    assert {dag.get_task(name).trigger_rule for name in after_skipped} == {"none_failed"}
    assert dag.get_task("train").retries >= 3


def test_parsing_is_quick_and_imports_nothing_of_the_training_stack():
    program = (
        "import sys, time, airflow.sdk, runpy; before = time.process_time(); runpy.run_path(sys.argv[1]); seconds = time.process_time() - before;"
        "heavy = {m.split('.')[0] for m in sys.modules} & {'numpy', 'cv2', 'tensorflow', 'mtc', 'tasks'}; print(seconds, *heavy)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    command = [sys.executable, "-c", program, str(ROOT / "dags" / "mtc_train.py")]
    answer = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    seconds, *heavy = answer.stdout.splitlines()[-1].split()
    assert heavy == []
    assert float(seconds) < 1


def test_plugins_load():
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    assert plugins_manager.get_import_errors() == {}


@pytest.mark.parametrize(
    "conf",
    [
        {"preset": "dmeo"},
        {"device": "tpu"},
        {"steps": 0},
        {"steps": "many"},
        {"batch_size": 1.5},
        {"data_root": ""},
        {"set": ["train.steps"]},
        {"set": "train.steps=3"},
    ],
    ids=str,
)
def test_bad_values_are_refused_before_anything_starts(dag, steps, conf):
    with pytest.raises(ParamValidationError):
        dag.test(run_conf=conf)
    assert steps.starts() == []


def test_an_unknown_key_fails_the_run_and_the_nearest_one_is_named(dag, steps, caplog):
    state, states, _ = ran(dag, stepz=3)
    assert state == "failed"
    assert states["validate"] == "failed"
    assert steps.starts() == []
    with pytest.raises(params.AirflowFailException, match="unknown parameter 'stepz'; did you mean 'steps'?"):
        params.refuse_unknown({"dag_run": type("Run", (), {"conf": {"stepz": 3}})})


def test_only_what_was_given_goes_over_the_preset():
    values = {name: param.value for name, param in params.form().items()}
    assert params.arguments(values) == ["--config", "demo"]
    values.update(preset="coco_body", device="gpu", steps=7, data_root="/d/my data #1", set=[" train.seed=3 "])
    assert params.arguments(values) == [
        "--config", "coco_body", "--set", "train.device=gpu", "--set", "train.steps=7", "--set", 'data.root="/d/my data #1"', "--set", "train.seed=3",
    ]  # fmt: skip


def test_every_parameter_sets_a_key_that_the_config_has():
    program = (
        "import json, sys; from mtc import config; c = config.load('demo', json.loads(sys.argv[1]));"
        "print(c.data.root, c.train.steps, c.fetch.source, c.storage.endpoint, c.snapshot.uri)"
    )
    values = {"device": "cpu", "steps": 9, "batch_size": 2, "data_root": "/d/my data #1", "source": "null", "storage_uri": "s3://b/p"}
    values.update(storage_endpoint="http://h:1", snapshot="a: b", set=["data.mix.coco=2"])
    assert set(values) | {"preset", "shards", "notify", "dry_run", "world_size", "machines"} == set(params.form())
    answer = subprocess.run([sys.executable, "-c", program, json.dumps(params.overrides(values))], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout.strip() == "/d/my data #1 9 null http://h:1 a: b", answer.stderr


def test_the_default_preset_can_be_changed_to_a_file_of_ones_own(monkeypatch):
    monkeypatch.setenv("MTC_PRESET", "/somewhere/mine.yaml")
    assert params.form()["preset"].resolve() == "/somewhere/mine.yaml"


def test_a_run_goes_from_the_first_task_to_the_last_in_one_run_directory(dag, steps):
    state, states, run_dir = ran(dag, steps=5)
    assert state == "success"
    assert states.pop("train_with") == "skipped"  # there is one machine
    assert set(states.values()) == {"success"}
    started = [start["step"] for start in steps.starts()]
    assert started[0] == "doctor"
    assert set(started[1:3]) == {"fetch_coco", "fetch_snapshot"}
    assert started[3:] == ["preprocess", "preprocess", "preprocess", "train", "evaluate", "report"]
    more = {"train": [["--take-over"]], "preprocess": [["--shard", "1/2"], ["--shard", "2/2"], ["--merge"]]}
    for start in steps.starts():
        told = start["argv"][start["argv"].index("--config") :]
        assert told[:6] == ["--config", "demo", "--set", "train.steps=5", "--run-dir", str(run_dir)]
        assert told[6:] in more.get(start["step"], [[]])
        assert start["cwd"] == str(ROOT)
    assert "step train begins" in (run_dir / "logs" / "train.log").read_text()


def test_a_users_mistake_fails_the_task_without_another_try(impatient, steps):
    steps.plan(fetch_coco=["user_error"])
    state, states, _ = ran(impatient)
    assert state == "failed"
    assert states["fetch.coco"] == "failed"
    assert states["train"] == "upstream_failed"
    assert len(steps.starts("fetch_coco")) == 1


def test_a_step_whose_work_is_done_is_skipped_and_what_follows_is_not(impatient, steps):
    steps.plan(fetch_coco=["unchanged"], preprocess=["unchanged"] * 3)
    state, states, _ = ran(impatient)
    assert state == "success"
    skipped = {name for name, state in states.items() if state == "skipped"}
    assert skipped == {"fetch.coco", "preprocess.masks", "preprocess.merge", "train_with"}
    assert states["train"] == "success"


def test_a_training_that_somebody_stopped_on_the_page_is_not_started_again(impatient, steps):
    steps.plan(train=["asked"])
    state, states, _ = ran(impatient)
    assert (state, states["train"]) == ("failed", "failed")
    assert len(steps.starts("train")) == 1


def test_as_many_shards_as_asked_for_are_made_side_by_side(dag, steps):
    state, _, _ = ran(dag, shards=3)
    assert state == "success"
    told = [start["argv"][start["argv"].index("--run-dir") + 2 :] for start in steps.starts("preprocess")]
    assert sorted(told[:3]) == [["--shard", "1/3"], ["--shard", "2/3"], ["--shard", "3/3"]]
    assert told[3:] == [["--merge"]]


def test_several_processes_of_one_machine_are_started_by_one_task(dag, steps):
    state, states, run_dir = ran(dag, world_size=2)
    assert (state, states["train_with"]) == ("success", "skipped")
    (start,) = steps.starts("train")
    told = start["argv"][2:]
    assert told[:4] == ["tasks.launch", "--ranks", "2", "--"]
    assert told[4:6] == ["--config", "demo"]
    assert told[-3:] == ["--run-dir", str(run_dir), "--take-over"]


def test_each_machine_has_a_task_and_all_meet_in_the_run_directory(dag, steps):
    state, states, run_dir = ran(dag, world_size=6, machines=3)
    assert state == "success"
    assert set(states.values()) == {"success"}
    meeting = ["--meet-in", str(run_dir / "ranks" / "meeting.json")]
    for machine, record in enumerate(("train", "train_machine_1", "train_machine_2")):
        (start,) = steps.starts(record)
        told = start["argv"][2 : start["argv"].index("--")]
        more = ["--record", record] if machine else []
        assert told == ["tasks.launch", "--ranks", "2", "--nodes", "3", "--node-rank", str(machine), *meeting, *more]


def test_a_machine_that_is_lost_is_tried_again_and_one_that_somebody_stopped_is_not(impatient, steps):
    steps.plan(train=["fail", "ok"], train_machine_1=["fail", "ok"])
    state, _, _ = ran(impatient, world_size=2, machines=2)
    assert state == "success"
    assert [len(steps.starts(name)) for name in ("train", "train_machine_1")] == [2, 2]
    steps.plan(train=["ok", "ok", "asked"], train_machine_1=["ok", "ok", "asked"])
    state, states, _ = ran(impatient, world_size=2, machines=2)
    assert (state, states["train"], states["train_with"]) == ("failed", "failed", "failed")
    assert [len(steps.starts(name)) for name in ("train", "train_machine_1")] == [3, 3]


def test_processes_that_machines_cannot_share_equally_fail_the_run_at_once(impatient, steps):
    state, states, _ = ran(impatient, world_size=3, machines=2)
    assert (state, states["validate"]) == ("failed", "failed")
    assert steps.starts() == []


def test_a_dry_run_changes_everything_but_network_device_and_storage():
    program = "import json, sys; from mtc import config; c = config.load('coco_body', json.loads(sys.argv[1])); print(json.dumps(config.to_dict(c)))"
    values = {name: param.value for name, param in params.form().items()}
    values.update(preset="coco_body", dry_run=True, storage_uri="s3://b/p")
    answer = subprocess.run(
        [sys.executable, "-c", program, json.dumps(params.overrides(values))], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(answer.stdout)
    assert (found["train"]["only"], found["fetch"]["source"], found["storage"]["uri"]) == (1, "synthetic", "s3://b/p")
    assert (found["model"]["crop"], found["model"]["stages"], found["train"]["batch_size"]) == (368, 6, 4)


def test_a_checkpoint_s_event_says_step_loss_and_place(dag, airflow_database, steps):
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    steps.plan(train=["trained"])
    run = dag.test(run_conf=ALONE)
    assert run.state == "success"
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_task_id == "train").order_by(AssetEvent.id)).all()
    found = events[-1].extra
    assert (found["step"], found["loss"], found["uploaded"]) == (600, 0.5, "file:///storage/r/checkpoints/step-00000600")
    assert found["run_dir"] == str(run_directory.run_directory("mtc_train", run.run_id))


def test_an_evaluation_is_of_the_checkpoint_that_started_it_or_of_the_one_that_was_asked_for():
    class Event:
        extra = {"run_dir": "/runs/a", "uploaded": "s3://b/a/checkpoints/step-00000600", "checkpoint": "/runs/a/checkpoints/step-00000600"}

    values = {name: param.value for name, param in params.evaluation_form().items()}
    words = params.of_checkpoint({"params": values, "triggering_asset_events": {"mtc_checkpoint": [Event]}})
    assert words == ["--config", "/runs/a/config.json", "--checkpoint", Event.extra["uploaded"], "--set", "report.samples=4000"]
    words = params.of_checkpoint({"params": {**values, "checkpoint": "/c", "run_dir": "/r", "set": ["model.crop=64"]}, "triggering_asset_events": {}})
    assert words == ["--config", "/r/config.json", "--checkpoint", "/c", "--set", "report.samples=4000", "--set", "model.crop=64"]
    with pytest.raises(params.AirflowFailException, match="there is no checkpoint to evaluate"):
        params.of_checkpoint({"params": values, "triggering_asset_events": {}})


def test_what_a_deployment_sets_reaches_the_dag(monkeypatch):
    from mtc_airflow import deployment

    train = deployment.on_device("train", task_id="train", arguments=["--take-over"])
    assert (deployment.most_runs(), train.queue, train.pool, deployment.deadline()) == (1, "default", "default_pool", None)
    for name, value in (("MTC_MAX_RUNS", "4"), ("MTC_DEVICE_QUEUE", "npu"), ("MTC_DEVICE_POOL", "npus"), ("MTC_DEADLINE_HOURS", "36.5")):
        monkeypatch.setenv(name, value)
    train = deployment.on_device("train", task_id="train", arguments=["--take-over"])
    assert (deployment.most_runs(), train.queue, train.pool, train.arguments) == (4, "npu", "npus", ["--take-over"])
    assert deployment.deadline().interval == timedelta(hours=36.5)
    monkeypatch.setenv("MTC_MAX_RUNS", "many")
    assert deployment.most_runs() == 1


def test_a_failure_is_tried_again(impatient, steps):
    steps.plan(train=["fail", "ok"])
    state, _, _ = ran(impatient)
    assert state == "success"
    assert len(steps.starts("train")) == 2


def test_a_step_that_something_else_stopped_is_resumed(impatient, steps):
    import threading

    steps.plan(train=["wait", "ok"])
    stopper = threading.Thread(target=lambda: os.kill(wait_for(lambda: steps.starts("train"), "the training")[0]["pid"], 15))
    stopper.start()
    state, _, run_dir = ran(impatient)
    stopper.join()
    assert state == "success"
    assert (run_dir / "checkpoint").read_text() == "saved"
    assert len(steps.starts("train")) == 2


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00+00:00", "../../etc", "..", "a b", "ä", "x" * 300])
def test_every_run_id_gets_a_directory_of_its_own_below_the_runs(run_id):
    found = run_directory.run_directory("mtc_train", run_id)
    assert found.parent == run_directory.run_directory("mtc_train", "plain").parent
    assert found.name not in ("", ".", "..")
    assert found != run_directory.run_directory("mtc_train", run_id.replace(":", "_").replace(" ", "_") + "_")
