"""What the machines decide and not the run, from the environment of Airflow: read when the DAG is parsed.

MTC_MAX_RUNS        trainings at once, 1 where it is not set: one device, one training
MTC_DEVICE_QUEUE    queue of the tasks that compute on the device (validate, train, evaluate, report), for CeleryExecutor: its workers are the
                    machines with devices
MTC_DEVICE_POOL     pool of these tasks; it has to exist (`airflow pools set npus 2 devices`), or they wait without a word
MTC_DEVICE_POD      path of a pod template: these tasks run in pods of their own on Kubernetes (`mtc_airflow.pod_operator`), not on Airflow's worker
MTC_DEADLINE_HOURS  tell the connections of `mtc_airflow.notify` when a run is not through after so long
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import AsyncCallback, BaseOperator, DeadlineAlert, DeadlineReference

from mtc_airflow.params import of_form
from mtc_airflow.step_operator import StepOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial


def most_runs() -> int:
    """How many runs may be active."""
    return int(_number("MTC_MAX_RUNS", 1))


def on_device(command: str, *, arguments: Sequence[str] = (), choose=of_form, **kwargs: Any) -> BaseOperator:
    """The operator of a step that computes on the device, for where that is: `command`, `arguments` and `choose` as of `StepOperator`, and whatever
    any operator takes.
    """
    operator, words, own = _on_device()
    return operator(command=command, choose=choose, **{words: arguments}, **own, **kwargs)


def on_more_devices(command: str, *, choose=of_form, **kwargs: Any) -> OperatorPartial:
    """As `on_device`, to be mapped: one task for each machine that takes part beside the first."""
    operator, _, own = _on_device()
    return operator.partial(command=command, choose=choose, **own, **kwargs)


def _on_device() -> tuple[type[BaseOperator], str, dict[str, Any]]:
    """(operator, its name for further options of the command, what the environment says of its place)."""
    place = {"queue": os.environ.get("MTC_DEVICE_QUEUE"), "pool": os.environ.get("MTC_DEVICE_POOL")}
    own: dict[str, Any] = {name: value for name, value in place.items() if value}
    template = os.environ.get("MTC_DEVICE_POD")
    if not template:
        return StepOperator, "arguments", own
    from mtc_airflow.pod_operator import PodStepOperator  # its provider need not be there otherwise

    return PodStepOperator, "options", {"template": template, **own}


def deadline() -> DeadlineAlert | None:
    """The alert for a run that takes too long, or None."""
    hours = _number("MTC_DEADLINE_HOURS", 0)
    if not hours:
        return None
    # Awaited in the triggerer: what an executor runs for a deadline may not read connections.
    callback = AsyncCallback("mtc_airflow.notify.on_deadline", kwargs={"hours": hours})
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(hours=hours), callback=callback)


def _number(name: str, default: float) -> float:
    given = os.environ.get(name)
    try:
        value = float(given) if given else default
    except ValueError:
        value = -1.0
    if value < 0:
        print(f"{name}={given}: expected a number of at least 0; {default} is used", file=sys.stderr)
        return default
    return value
