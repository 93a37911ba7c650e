"""Airflow's connections, as the steps and the notifications use them.

`mtc_s3` (type aws) becomes the environment of a step, where boto3 looks for it; nothing of it is printed, passed as an argument, or put into an XCom.
Where there is no such connection, the step has the environment of Airflow's worker.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

STORAGE = "mtc_s3"
WEBHOOK = "mtc_webhook"
MAIL = "mtc_smtp"


def find(conn_id: str) -> Connection | None:
    """The connection of this name, or None."""
    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException:
        return None


def of_storage(log) -> dict[str, str]:
    """The environment variables of `mtc_s3`; {} where there is no such connection."""
    found = find(STORAGE)
    if found is None:
        return {}
    extra = _extra(found)
    values = {
        "AWS_ACCESS_KEY_ID": found.login,
        "AWS_SECRET_ACCESS_KEY": found.password,
        "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
        "AWS_DEFAULT_REGION": extra.get("region_name"),
        "AWS_ENDPOINT_URL_S3": extra.get("endpoint_url"),
    }
    log.info("storage: the connection %s", STORAGE)
    return {name: str(value) for name, value in values.items() if value}


def _extra(connection: Connection) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        value = json.loads(connection.extra or "{}")
        if isinstance(value, dict):
            return value
    return {}
