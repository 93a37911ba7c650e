"""Who is told of a failure, and what; nothing of it may turn a failed task into something worse."""

import asyncio
import json
import logging
from types import SimpleNamespace

import pytest

from mtc_airflow import connections, notify, run_directory
from test.dag.training_runs import make_run
from test.dag.webhook import Webhook

RUN = "manual__2026-05-06T07:08:09+00:00"


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setenv("MTC_RUNS", str(tmp_path))
    make_run(run_directory.run_directory("mtc_train", RUN))
    ti = SimpleNamespace(dag_id="mtc_train", run_id=RUN, task_id="train")
    return {"ti": ti, "params": {"notify": ["a@example.org"]}, "exception": RuntimeError("the disk is on fire")}


@pytest.fixture
def webhook(monkeypatch):
    """What a server gets as the connection mtc_webhook."""
    with Webhook() as server:
        monkeypatch.setenv("AIRFLOW_CONN_MTC_WEBHOOK", json.dumps({"conn_type": "http", "host": server.url, "password": "s3cret"}))
        yield server.posts


def test_a_webhook_hears_what_failed_why_and_where_to_look(context, webhook):
    notify.on_failure(context)
    headers, said = webhook[0]
    assert (said["task_id"], said["reason"], said["step"], said["loss"]) == ("train", "the disk is on fire", 20, 0.05)
    assert said["page"].endswith("/dags/mtc_train/runs/manual__2026-05-06T07%3A08%3A09%2B00%3A00/plugin/mtc_training")
    assert "Last step 20, loss 0.05." in said["text"]
    assert headers["Authorization"] == "Bearer s3cret"


def test_mail_goes_to_the_addresses_of_the_run(context, monkeypatch):
    sent = []

    class Hook:
        def __init__(self, smtp_conn_id):
            assert smtp_conn_id == "mtc_smtp"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def send_email_smtp(self, **mail):
            sent.append(mail)

    monkeypatch.setattr("airflow.providers.smtp.hooks.smtp.SmtpHook", Hook)
    monkeypatch.setenv("AIRFLOW_CONN_MTC_SMTP", json.dumps({"conn_type": "smtp", "host": "mail"}))
    context["exception"] = RuntimeError("<b>")
    notify.on_failure(context)
    assert (sent[0]["to"], sent[0]["subject"]) == (["a@example.org"], f"mtc: train of {RUN} has failed")
    assert "&lt;b&gt;" in sent[0]["html_content"]


def test_without_connections_nobody_is_told_and_nothing_breaks(context, airflow_database):
    notify.on_failure(context)


def test_a_message_that_cannot_be_sent_is_logged_and_no_more(context, monkeypatch, closed_port, caplog):
    monkeypatch.setenv("AIRFLOW_CONN_MTC_WEBHOOK", json.dumps({"conn_type": "http", "host": f"http://127.0.0.1:{closed_port}"}))
    with caplog.at_level(logging.WARNING):
        notify.on_failure(context)
    assert "the message could not be sent by webhook" in caplog.text


def test_a_missed_deadline_is_told(context, webhook):
    asyncio.run(notify.on_deadline(context={"dag_run": {"dag_id": "mtc_train", "run_id": RUN}}, hours=2.0))
    told, page = webhook[0][1]["text"].splitlines()
    assert told == f"mtc_train {RUN} is not through after 2 h; it goes on at step 20."
    assert page == webhook[0][1]["page"]
    assert page.endswith("/plugin/mtc_training")


def test_the_storage_s_connection_becomes_the_environment_of_a_step(monkeypatch, caplog):
    given = {"conn_type": "aws", "login": "the-id", "password": "the-secret", "extra": {"endpoint_url": "http://h:9", "region_name": "r"}}
    monkeypatch.setenv("AIRFLOW_CONN_MTC_S3", json.dumps(given))
    with caplog.at_level(logging.DEBUG):
        found = connections.of_storage(logging.getLogger("test"))
    assert found == {
        "AWS_ACCESS_KEY_ID": "the-id",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_DEFAULT_REGION": "r",
        "AWS_ENDPOINT_URL_S3": "http://h:9",
    }
    assert "the-secret" not in caplog.text
    assert "the-id" not in caplog.text
