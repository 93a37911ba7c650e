"""Judges each new checkpoint of `mtc_train` on held-out people: runs when a training has made one."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mtc_airflow import assets, deployment, notify, params

DOC = """
### Evaluate a checkpoint

Starts by itself after each training, on the checkpoint that it made (the asset `mtc_checkpoint`), with the training's own configuration and twenty
times the held-out samples of the report. By hand: *Trigger* with the address of any checkpoint, `…/<run>/checkpoints/step-…`, here or in a storage.
"""

with DAG(
    dag_id="mtc_evaluate",
    description="A checkpoint in, its accuracy on held-out people out",
    doc_md=DOC,
    schedule=[assets.CHECKPOINT],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params=params.evaluation_form(),
    default_args={"owner": "mtc", "retries": 2, "retry_delay": timedelta(seconds=10), "on_failure_callback": notify.on_failure},
    tags=["mtc", "evaluation"],
) as dag:
    deployment.on_device("evaluate", task_id="evaluate", choose=params.of_checkpoint)
