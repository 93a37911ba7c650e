"""What the machines decide and not the run, from the environment of Airflow: read when the DAG is parsed.

MTC_MAX_RUNS        trainings at once, 1 where it is not set: one device, one training
MTC_TRAIN_QUEUE     queue of the task `train`, for CeleryExecutor: its workers are the machines with the devices
MTC_TRAIN_POOL      pool of the task `train`; it has to exist (`airflow pools set npu 2 devices`), or the task waits without a word
MTC_TRAIN_POD       path of a pod template: `train` runs in a pod of its own on Kubernetes (`mtc_airflow.pod_operator`), not on Airflow's worker
MTC_DEADLINE_HOURS  tell the connections of `mtc_airflow.notify` when a run is not through after so long
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, BaseOperator, DeadlineAlert, DeadlineReference

from mtc_airflow.step_operator import StepOperator


def most_runs() -> int:
    """How many runs may be active."""
    return int(_number("MTC_MAX_RUNS", 1))


def training(arguments: list[str], **kwargs: Any) -> BaseOperator:
    """The operator of `train`, for where it runs. arguments: further options of its command; kwargs: those of any operator."""
    place = {"queue": os.environ.get("MTC_TRAIN_QUEUE"), "pool": os.environ.get("MTC_TRAIN_POOL")}
    kwargs.update({name: value for name, value in place.items() if value})
    template = os.environ.get("MTC_TRAIN_POD")
    if template:
        from mtc_airflow.pod_operator import PodStepOperator  # its provider need not be there otherwise

        return PodStepOperator(command="train", template=template, options=arguments, **kwargs)
    return StepOperator(command="train", arguments=arguments, **kwargs)


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
