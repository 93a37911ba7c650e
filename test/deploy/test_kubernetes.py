"""`train` in a pod of its own, on a double of Kubernetes' API that runs containers as processes; and the files of deploy/ against their schemas."""

import os
import signal
import threading
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mtc_airflow import deployment, endings, params
from test.dag.conftest import ROOT, steps, wait_for  # noqa: F401 - a fixture  # noqa: F401 - a fixture
from test.dag.test_step_operator import Store, execute, in_background
from test.deploy.kube import Cluster

pytestmark = pytest.mark.timeout(900)  # what is waited for has limits of its own

TEMPLATES = sorted((ROOT / "deploy" / "kubernetes").glob("pod-*.yaml"))
DEVICES = {"pod-ascend.yaml": "huawei.com/Ascend910", "pod-nvidia.yaml": "nvidia.com/gpu"}


@pytest.fixture
def cluster(steps, tmp_path, monkeypatch):  # noqa: F811
    with Cluster(tmp_path, os.environ["MTC_PYTHON"]) as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig))
        monkeypatch.setenv("MTC_DEVICE_POD", str(TEMPLATES[0]))
        yield found


@pytest.fixture
def context(steps):  # noqa: F811
    values = {name: param.value for name, param in params.form().items()}
    pushed = {}
    ti = SimpleNamespace(
        dag_id="mtc_train", task_id="train", run_id="r", map_index=-1, try_number=1, xcom_push=lambda key, value: pushed.update({key: value})
    )
    found = {
        "params": values,
        "dag": SimpleNamespace(dag_id="mtc_train"),
        "run_id": "r",
        "ti": ti,
        "task_state_store": Store(steps.runs / "store.json"),
    }
    return {**found, "pushed": pushed}


def new_try(**more):
    return deployment.on_device("train", task_id="train", arguments=["--take-over"], config_file=os.environ["KUBECONFIG"], in_cluster=False, **more)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_template_is_a_pod_with_one_device(template):
    pod = yaml.safe_load(template.read_text())
    kubernetes_validate.validate(pod, "1.37", strict=True)
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "mtc"
    assert container["resources"]["limits"][DEVICES[template.name]] == 1
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_other_manifests_fit_their_schemas_and_each_other():
    folder = ROOT / "deploy" / "kubernetes"
    documents = [document for name in ("volume.yaml", "rights.yaml") for document in yaml.safe_load_all((folder / name).read_text())]
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    claim, role, binding = documents
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert values["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for template in TEMPLATES:
        volumes = yaml.safe_load(template.read_text())["spec"]["volumes"]
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in volumes
    environ = {entry["name"]: entry["value"] for entry in values["env"]}
    assert (ROOT / environ["MTC_DEVICE_POD"].removeprefix("/opt/mtc/")).is_file()
    assert (ROOT / values["config"]["core"]["dags_folder"].removeprefix("/opt/mtc/") / "mtc_train.py").is_file()


def test_a_pod_trains_and_its_task_returns_what_others_do(cluster, context, steps):  # noqa: F811
    result = execute(new_try(), context)
    assert result == {"run_dir": str(steps.runs / "mtc_train" / "r"), "figures": {"answer": 42}}
    assert context["pushed"]["return_value"] == result
    (start,) = steps.starts("train")
    assert start["argv"][1:3] == ["-m", "tasks.train"]
    assert start["argv"][-1] == "--take-over"
    created = next(body for method, _, body in cluster.requests if method == "POST")
    (container,) = created["spec"]["containers"]
    assert container["resources"]["limits"]["huawei.com/Ascend910"] == "1"
    assert container["image"] == "mtc:latest"
    wait_for(lambda: not cluster.pods, "the pod of a success to be gone")


def test_a_pod_that_finds_its_work_done_is_shown_as_skipped(cluster, context, steps):  # noqa: F811
    steps.plan(train=["unchanged"])
    with pytest.raises(AirflowSkipException, match="nothing to do: another run has done it"):
        execute(new_try(), context)
    assert context["pushed"]["return_value"]["figures"] == {"answer": 41}


def test_every_step_that_computes_has_its_pod(cluster):
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    pods = {task.task_id for task in bag.dags["mtc_train"].tasks if task.task_type == "PodStepOperator"}
    assert pods == {"validate", "train", "train_with", "evaluate", "report"}
    assert [task.task_type for task in bag.dags["mtc_evaluate"].tasks] == ["PodStepOperator"]


def test_a_mistake_is_not_tried_again_and_its_sentence_is_shown(cluster, context, steps):  # noqa: F811
    steps.plan(train=["user_error"])
    with pytest.raises(AirflowFailException, match=r"^train.steps=0: must be above 0$"):
        execute(new_try(), context)


def test_a_failure_is_tried_again_in_a_new_pod(cluster, context, steps):  # noqa: F811
    steps.plan(train=["fail", "ok"])
    with pytest.raises(endings.StepFailed, match="ended with exit code 1: RuntimeError: the disk is on fire"):
        execute(new_try(), context)
    assert execute(new_try(), context)["figures"] == {"answer": 42}
    assert len(steps.starts("train")) == 2


def test_a_stop_that_somebody_asked_for_is_not_tried_again(cluster, context, steps):  # noqa: F811
    steps.plan(train=["asked"])
    with pytest.raises(AirflowFailException, match="stopped by alice at step 3"):
        execute(new_try(), context)


def test_a_killed_container_is_for_another_try(cluster, context, steps):  # noqa: F811
    steps.plan(train=["wait"])
    thread, outcome = in_background(new_try(), context)
    os.kill(wait_for(lambda: steps.starts("train"), "the training")[0]["pid"], signal.SIGKILL)
    thread.join(60)
    assert isinstance(outcome[0], endings.StepFailed)
    assert "was killed (out of memory" in str(outcome[0])


def test_a_stopped_task_deletes_its_pod_which_saves_first(cluster, context, steps):  # noqa: F811
    steps.plan(train=["wait"])
    task = new_try()
    thread, outcome = in_background(task, context)
    wait_for(lambda: steps.starts("train"), "the training")
    wait_for(lambda: task.pod, "the task to know its pod")
    task.on_kill()
    thread.join(60)
    assert isinstance(outcome[0], AirflowFailException)
    assert (steps.runs / "mtc_train" / "r" / "checkpoint").read_text() == "saved"
    deleted = [path for method, path, _ in cluster.requests if method == "DELETE"]
    assert deleted
    assert cluster.pods == {} or all("deletionTimestamp" in pod["metadata"] for pod in cluster.pods.values())


def test_another_try_follows_the_pod_of_a_lost_one(cluster, context, steps):  # noqa: F811
    steps.plan(train=["wait"])
    lost = new_try()
    threading.Thread(target=in_background, args=(lost, context), daemon=True).start()
    wait_for(lambda: steps.starts("train"), "the training")
    context["ti"].try_number = 2
    thread, outcome = in_background(new_try(), context)
    wait_for(lambda: sum("/log" in path for _, path, _ in cluster.requests) >= 2, "the other try to follow")
    (steps.runs / "release").touch()
    thread.join(60)
    assert outcome[0]["figures"] == {"answer": 42}
    assert len(steps.starts("train")) == 1


def test_a_pod_that_the_cluster_refuses_says_why_and_may_come_again(cluster, context, steps):  # noqa: F811
    cluster.refusal = "exceeded quota: devices, requested: huawei.com/Ascend910=1, used: huawei.com/Ascend910=8, limited: huawei.com/Ascend910=8"
    with pytest.raises(Exception, match="exceeded quota") as refused:
        execute(new_try(), context)
    assert not isinstance(refused.value, AirflowFailException)
    assert steps.starts("train") == []


def test_the_compose_file_fits_its_schema_and_names_what_is_there():
    from compose_spec.models import ComposeSpecification

    document = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = document["services"]
    ComposeSpecification.model_validate({key: value for key, value in document.items() if not key.startswith("x-")})
    assert {"postgres", "redis", "migrate", "api-server", "scheduler", "dag-processor", "triggerer", "worker"} <= set(services)
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "trainer-cpu": ["cpu"], "trainer-nvidia": ["nvidia"], "trainer-ascend": ["ascend"]
    }  # fmt: skip
    wanted = set()
    for line in (ROOT / "deploy" / "compose.yaml").read_text().splitlines():
        wanted |= {part.partition("}")[0].partition(":?")[0] for part in line.split("${")[1:] if ":?" in part.partition("}")[0]}
    given = {
        line.partition("=")[0] for line in (ROOT / "deploy" / "example.env").read_text().splitlines() if "=" in line and not line.startswith("#")
    }
    assert wanted == given
    volumes = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {name for name in volumes if "/" not in name} == set(document["volumes"])
