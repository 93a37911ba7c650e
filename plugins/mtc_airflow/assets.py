"""What the DAGs make and wait for, by the names that the UI shows."""

from __future__ import annotations

from airflow.sdk import Asset

DATA = Asset(name="mtc_data", uri="mtc://data")
"""Preprocessed data set."""
CHECKPOINT = Asset(name="mtc_checkpoint", uri="mtc://checkpoint")
"""The last checkpoint of a training; its events have step, loss, uploaded (URI), checkpoint (path) and run_dir."""
REPORT = Asset(name="mtc_report", uri="mtc://report")
