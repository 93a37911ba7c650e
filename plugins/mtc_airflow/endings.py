"""What the exit code of a step means to Airflow, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from mtc_airflow import assets

USER_ERROR, STOPPED, KILLED = 2, 3, 128 + 9


class StepFailed(AirflowException):
    """The command of a step ended without success; the next try resumes."""


def success(context, outlets: Sequence[Asset], result: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a task whose command ended well, after telling its assets.

    record: what the step has written of itself; where that says that there was nothing to do, AirflowSkipException is raised.
    """
    unchanged = (record.get("unchanged") or {}).get("reason")
    if unchanged:
        if context.get("ti") is not None:  # a skipped task has no result of its own accord
            context["ti"].xcom_push(key="return_value", value=result)
        raise AirflowSkipException(f"nothing to do: {unchanged}")
    assets.tell(context, outlets, result)
    return result


def failure(sentence: str, code: str | int | None, *, stopping: bool, requested_by: str | None) -> AirflowException:
    """The exception for a command that ended without success: tried again, unless a person has to do something first.

    stopping: this task was told to stop. requested_by: who asked the command itself to stop, on the Training page or by `tasks.control`.
    """
    if stopping or code == USER_ERROR or (code == STOPPED and requested_by is not None):
        return AirflowFailException(sentence)
    return StepFailed(sentence)


def sentence(task_id: str, code: str | int | None, why: str, where: str) -> str:
    """One sentence on how a command ended. why: in its own words; where: the way to its output, "see ...". code None: it was lost."""
    if code == USER_ERROR:
        return why or f"{task_id} refused its arguments; {where}"
    if code == STOPPED and why.startswith("stopped by"):
        return f"{why}; clear this task to go on from there"
    if code == STOPPED:
        return f"{task_id} has saved and left; another try resumes from there"
    if code in (None, KILLED):
        return f"{task_id} was killed (out of memory, or the machine went down); {where}"
    return f"{task_id} ended with exit code {code}{': ' + why if why else ''}; {where}"
