"""PostgreSQL + Redis + CeleryExecutor with a queue for devices, FAB's users, logs and results in S3, mail and webhook: as docs/deploy.md says."""

import email
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from aiosmtpd.controller import Controller

from test import leaks
from test.dag.conftest import HOME, free_port, wait_for
from test.dag.test_training_page import routes
from test.dag.webhook import Webhook
from test.deploy.servers import Deployment

RUN = "manual__2026-03-04T05:06:07+00:00"
PARTS = {
    **Deployment.PARTS,
    "worker": f"celery worker --queues default --concurrency 2 --celery-hostname worker@test --skip-serve-logs --pid {HOME}/worker.pid".split(),
    "trainer": f"mtc_airflow.worker --queues npu --concurrency 1 --celery-hostname trainer@test --skip-serve-logs --pid {HOME}/trainer.pid".split(),
}
WEBHOOK_TOKEN = "token-of-the-webhook"
pytestmark = pytest.mark.timeout(900)  # the fixtures take minutes


class Mailbox:
    """A mail server that keeps what it gets: [(addresses, subject and text)]."""

    def __init__(self):
        self.mails = []
        self._server = Controller(self, hostname="127.0.0.1", port=free_port())
        self.port = self._server.port

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *error):
        self._server.stop()

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content)
        text = "".join(part.get_payload(decode=True).decode() for part in message.walk() if part.get_content_maintype() == "text")
        self.mails.append((envelope.rcpt_tos, f"{message['Subject']}\n{text}"))
        return "250 OK"


@pytest.fixture(scope="module")
def webhook():
    with Webhook() as server:
        yield server


@pytest.fixture(scope="module")
def mailbox():
    with Mailbox() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """(endpoint, folder of the bucket) of an S3 server."""
    folder = tmp_path_factory.mktemp("s3") / "server"
    with leaks.s3_server(folder) as endpoint:
        yield endpoint, folder / "bucket"


@pytest.fixture(scope="module")
def airflow(postgres, redis, webhook, mailbox, bucket):
    database = postgres.new_database("celery")
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{redis}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": database.replace("postgresql+psycopg2", "db+postgresql"),
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "2592000",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": "s3://bucket/logs",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "mtc_s3",
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": "s3://mtc_s3@bucket/xcom",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
        "MTC_DEVICE_QUEUE": "npu",
        "MTC_DEADLINE_HOURS": "0.01",
    }
    deployment = Deployment(HOME / "celery", database, PARTS, **settings)
    extra = json.dumps({"endpoint_url": bucket[0], "region_name": "us-east-1", "config_kwargs": {"s3": {"addressing_style": "path"}}})
    extra = json.dumps({**json.loads(extra), "aws_session_token": leaks.TOKEN})
    connection = ["connections", "add", "--conn-type"]
    mail = json.dumps({"from_email": "mtc@example.org", "disable_ssl": True, "disable_tls": True})
    deployment.prepared = [
        ["users", "create", *_user("admin", "Admin")],
        ["users", "create", *_user("bob", "Viewer")],
        [*connection, "aws", "mtc_s3", "--conn-login", leaks.KEY_ID, "--conn-password", leaks.SECRET, "--conn-extra", extra],
        [*connection, "http", "mtc_webhook", "--conn-host", webhook.url, "--conn-password", WEBHOOK_TOKEN],
        [*connection, "smtp", "mtc_smtp", "--conn-host", "127.0.0.1", "--conn-port", str(mailbox.port), "--conn-extra", mail],
    ]
    with deployment:
        deployment.log_in("admin", "admin")
        yield deployment


def _user(name, role):
    return ["--username", name, "--password", name, "--role", role, "--firstname", name, "--lastname", "x", "--email", f"{name}@example.org"]


@pytest.fixture(scope="module")
def trained(airflow):
    """A run whose worker was killed, and another time stopped, while it trained; at its end."""
    airflow.start_training(RUN, "storage.uri=s3://bucket/runs", "train.snapshot_every=50", shards=2)
    wait_for(lambda: len(airflow.journal(RUN)) > 60, "a checkpoint")

    airflow.kill("trainer")
    airflow.more_steps(RUN)
    airflow.start("trainer")
    wait_for(lambda: airflow.found(RUN, "train")["try_number"] == 2 and airflow.state(RUN, "train") == "running", "another try", 240)
    airflow.more_steps(RUN)

    before = airflow.journal(RUN)[-1]["step"]
    airflow.stop("trainer")
    assert [line["status"] for line in airflow.journal(RUN, "end")] == ["stopped"]
    airflow.start("trainer")
    wait_for(lambda: airflow.journal(RUN)[-1]["step"] > before + 20, "it to be resumed", 240)
    last = airflow.journal(RUN)[-1]["step"] + 100
    airflow.page("POST", "/mtc/api/control", {"action": "steps", "value": last}, RUN)
    assert airflow.end_of(RUN) == "success", airflow.output()[-20000:]
    return airflow


def test_a_killed_and_a_stopped_worker_lose_and_repeat_no_step(trained):
    steps = [line["step"] for line in trained.journal(RUN)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(trained.journal(RUN, "start")) == 2  # the killed worker's trainer ran on; the stopped worker's was resumed
    assert [line["status"] for line in trained.journal(RUN, "end")] == ["stopped", "success"]


def test_training_ran_on_the_queue_of_the_devices_and_the_rest_did_not(trained):
    queues = {task["task_id"]: task["queue"] for task in trained.rest("GET", f"{_run()}/taskInstances")["task_instances"]}
    assert {task for task, queue in queues.items() if queue == "npu"} == {"validate", "train", "train_with", "evaluate", "report"}
    assert set(queues.values()) == {"default", "npu"}
    assert sum(name == "preprocess.masks" for name in (task[0] for task in trained.tasks(RUN))) == 2


def test_logs_and_results_are_in_s3(trained, bucket):
    _, folder = bucket
    # A task has ended before its log is sent; until then the UI would ask the worker, which serves none here.
    wait_for(lambda: {"train", "report"} <= {_task_of(path) for path in (folder / "logs").rglob("*.log")}, "the logs", 120)
    for path in (trained.home / "airflow" / "logs").rglob("dag_id=mtc_train/**/*.log"):
        path.unlink()
    assert "tasks.report" in json.dumps(trained.rest("GET", f"{_run()}/taskInstances/report/logs/1"))
    assert list((folder / "xcom").rglob("*"))
    value = trained.rest("GET", f"{_run()}/taskInstances/train/xcomEntries/return_value?deserialize=true")["value"]
    assert "figures" in json.dumps(value) or "s3://" in json.dumps(value)


def _task_of(path):
    return next((part.removeprefix("task_id=") for part in path.parts if part.startswith("task_id=")), None)


def test_a_run_that_takes_too_long_is_told(trained, webhook):
    found = wait_for(lambda: [body for _, body in webhook.posts if body["task_id"] == "deadline"], "the alert", 120)
    assert found[0]["dag_id"] == "mtc_train"
    assert "is not through after 0.01 h" in found[0]["text"]


def test_a_failure_is_told_by_webhook_and_by_mail(airflow, webhook, mailbox):
    airflow.trigger("wrong", set=["train.steps=-5"], notify=["ann@example.org"])
    assert airflow.end_of("wrong") == "failed"
    _, mail = wait_for(lambda: [mail for mail in mailbox.mails if mail[0] == ["ann@example.org"]], "the mail")[0]
    headers, post = wait_for(lambda: [post for post in webhook.posts if post[1]["run_id"] == "wrong"], "the webhook")[0]
    assert headers["Authorization"] == f"Bearer {WEBHOOK_TOKEN}"
    assert "train.steps" in post["reason"]
    assert "train.steps" in mail
    assert "validate of wrong has failed" in mail.splitlines()[0]


def test_nothing_of_the_credentials_is_in_logs_results_or_run_directories(trained, bucket):
    secrets = [value.encode() for value in (*leaks.VALUES, WEBHOOK_TOKEN)]
    places = [trained.home, bucket[1]]
    found = [(path, secret) for place in places for path in place.rglob("*") if path.is_file() for secret in secrets if secret in path.read_bytes()]
    assert found == []


# ---- FAB: who may look, who may act


def ask(airflow, method, path, token=None, body=None, **headers):
    """The status code of an answer of the page."""
    query = urllib.parse.urlencode({"dag_id": "mtc_train", "run_id": RUN, "step": 0})
    url = f"http://127.0.0.1:{airflow.port}/mtc{path.replace('{name:path}', 'page.css')}?{query}"
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
    for name, value in {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {}), **headers}.items():
        request.add_header(name, value)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def tokens(airflow):
    return {name: airflow.token(name, name) for name in ("admin", "bob")}


@pytest.mark.parametrize(("method", "path"), routes())
def test_with_fab_no_route_answers_a_stranger(trained, method, path):
    assert ask(trained, method, path, body={"action": "save"} if method == "POST" else None) == 401
    assert ask(trained, method, path, "forged.token.here", body={"action": "save"} if method == "POST" else None) in (401, 403)


@pytest.mark.parametrize(("method", "path"), routes())
def test_with_fab_a_viewer_looks_and_does_not_act(trained, tokens, method, path):
    code = ask(trained, method, path, tokens["bob"], body={"action": "save"} if method == "POST" else None)
    assert code == (403 if method == "POST" else 404 if path in ("/sheet", "/api/skeletons") else 200)


def test_with_fab_an_administrator_acts_but_not_for_another_site(trained, tokens):
    assert ask(trained, "POST", "/api/control", tokens["admin"], {"action": "save"}) == 409  # nobody trains any more
    assert ask(trained, "POST", "/api/control", tokens["admin"], {"action": "save"}, Origin="http://evil.test") == 403


def _run():
    return f"/api/v2/dags/mtc_train/dagRuns/{urllib.parse.quote(RUN)}"
