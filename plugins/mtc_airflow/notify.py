"""Tells people when a task has failed for good: by mail and by webhook, whichever connection there is.

A message says what failed, why, the last loss, and where to look. The connection `mtc_smtp` (with the parameter `notify` of the run) sends mail;
`mtc_webhook` (an HTTP address; Slack, Teams and ntfy take its "text") gets a POST in JSON. A message that cannot be sent is logged, and no more: the
task has failed already.
"""

from __future__ import annotations

import html
import json
import logging
import urllib.parse
import urllib.request
from typing import Any

from airflow.sdk import conf
from asgiref.sync import sync_to_async

from mtc_airflow import connections, run_directory

log = logging.getLogger(__name__)
SECONDS = 20


def on_failure(context) -> None:
    """A task's `on_failure_callback`."""
    send(message(context, context.get("exception")), context["params"].get("notify") or [])


def message(context, reason: Any) -> dict[str, Any]:
    """What there is to say, JSON-able: {"text", "dag_id", "run_id", "task_id", "reason", "step", "loss", "page", "log"}."""
    ti = context["ti"]
    progress = run_directory.progress(run_directory.run_directory(ti.dag_id, ti.run_id))
    run = _address(ti.dag_id, ti.run_id)
    facts = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "reason": str(reason or "no reason is known")}
    facts.update(step=progress.get("step"), loss=progress.get("loss"), page=f"{run}/plugin/mtc_training", log=f"{run}/tasks/{ti.task_id}")
    trained = f" Last step {facts['step']}, loss {facts['loss']}." if progress else ""
    facts["text"] = f"{ti.task_id} of {ti.dag_id} {ti.run_id} has failed: {facts['reason']}.{trained}\n{facts['page']}\n{facts['log']}"
    return facts


def _address(dag_id: str, run_id: str) -> str:
    """Where the web UI shows a run."""
    base = (conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")
    return f"{base}/dags/{urllib.parse.quote(dag_id)}/runs/{urllib.parse.quote(run_id, safe='')}"


def send(facts: dict[str, Any], addresses) -> None:
    """Send the message on every way that is open."""
    for way in (_by_webhook, _by_mail):
        try:
            way(facts, addresses)
        except Exception as error:
            log.warning("the message could not be sent %s: %s", way.__name__.strip("_").replace("_", " "), error)


def _by_webhook(facts: dict[str, Any], addresses) -> None:
    found = connections.find(connections.WEBHOOK)
    if found is None:
        return
    host = found.host or ""
    url = host if "://" in host else f"{found.schema or 'https'}://{host}{f':{found.port}' if found.port else ''}"
    headers = {"Content-Type": "application/json"}
    if found.password:
        headers["Authorization"] = f"Bearer {found.password}"
    request = urllib.request.Request(url, data=json.dumps(facts).encode(), headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=SECONDS):
        log.info("the message was sent by the connection %s", connections.WEBHOOK)


def _by_mail(facts: dict[str, Any], addresses) -> None:
    if not addresses or connections.find(connections.MAIL) is None:
        return
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    with SmtpHook(smtp_conn_id=connections.MAIL) as hook:
        hook.send_email_smtp(
            to=list(addresses), subject=f"mtc: {facts['task_id']} of {facts['run_id']} has failed", html_content=_html(facts["text"])
        )
    log.info("the message was sent to %d address(es) by the connection %s", len(addresses), connections.MAIL)


def _html(text: str) -> str:
    return "<p>" + html.escape(text).replace("\n", "<br>") + "</p>"


async def on_deadline(context=None, hours: float = 0.0, **_: Any) -> None:
    """What a missed deadline calls (`mtc_airflow.deployment`): tells, and lets the run go on."""
    run = (context or {}).get("dag_run") or {}
    known = run if isinstance(run, dict) else {"dag_id": run.dag_id, "run_id": run.run_id}
    dag_id, run_id = str(known.get("dag_id", "mtc_train")), str(known.get("run_id") or known.get("dag_run_id") or "a run")
    facts = {"dag_id": dag_id, "run_id": run_id, "task_id": "deadline", "reason": f"it is not through after {hours:g} h"}
    progress = run_directory.progress(run_directory.run_directory(dag_id, run_id))
    facts.update(step=progress.get("step"), loss=progress.get("loss"), page=f"{_address(dag_id, run_id)}/plugin/mtc_training")
    goes_on = f" at step {facts['step']}" if progress else ""
    facts["text"] = f"{dag_id} {run_id} is not through after {hours:g} h; it goes on{goes_on}.\n{facts['page']}"
    await sync_to_async(send)(facts, [])
