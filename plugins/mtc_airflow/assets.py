"""What the DAGs make and wait for, by the names that the UI shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset

DATA = Asset(name="mtc_data", uri="mtc://data")
"""Preprocessed data set."""
CHECKPOINT = Asset(name="mtc_checkpoint", uri="mtc://checkpoint")
"""The last checkpoint of a training; its events have step, loss, uploaded (URI), checkpoint (path) and run_dir."""
REPORT = Asset(name="mtc_report", uri="mtc://report")


def tell(context, outlets: Sequence[Asset], result: Mapping[str, Any]) -> None:
    """Give the events of a task's assets what is worth knowing of the new version. result: what the task returns."""
    events, figures = context.get("outlet_events"), result["figures"]
    facts = {key: figures[key] for key in ("step", "loss", "uploaded", "checkpoint", "early_stop") if figures.get(key) is not None}
    for asset in outlets if events is not None else ():
        events[asset].extra = {"run_dir": result["run_dir"], **facts}
