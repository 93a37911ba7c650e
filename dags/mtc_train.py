"""Monocular Total Capture from data to report: `airflow dags trigger mtc_train`.

Thin on purpose: every task is a command of `tasks/` in the training interpreter, and this file is parsed again and again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mtc_airflow import params
from mtc_airflow.step_operator import StepOperator

DOC = """
### Train Monocular Total Capture

`validate` checks the machine, the config and the storage before anything long starts; `fetch_coco` and `fetch_snapshot` bring what is not there yet;
`preprocess` makes masks and `COCO.json`; `train` trains, with a checkpoint now and then that is uploaded while training goes on; `report` evaluates
and writes `report.html`.

* **Start**: the *Trigger* button, or `airflow dags trigger mtc_train --conf '{"preset": "coco_body", "source": "/data/coco", "device": "gpu"}'`.
* **Stop**: mark the running task as failed. It saves first; clear the task to go on from there.
* **Files**: each run has its own folder, `runs/mtc_train/<run id>`; every task's result names it.
* A try that fails or is lost with its worker or its machine is repeated and resumes.
* A mistake in the input is not tried again: the last line of the log says what to change. Neither is a run that somebody else is training at this
  moment: the line says who; clear the task when that one has ended.
"""

with DAG(
    dag_id="mtc_train",
    description="COCO 2017 and a snapshot in, a trained body or hand network and its report out",
    doc_md=DOC,
    schedule=None,
    catchup=False,
    max_active_runs=1,  # one device, one training
    is_paused_upon_creation=False,  # else `airflow dags trigger` on a new installation waits in "queued" for ever
    params=params.form(),
    default_args={"owner": "mtc", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["mtc", "training"],
) as dag:
    validate = StepOperator(task_id="validate", command="doctor", pre_execute=params.refuse_unknown)
    fetch_coco = StepOperator(task_id="fetch_coco", command="fetch coco")
    fetch_snapshot = StepOperator(task_id="fetch_snapshot", command="fetch snapshot")
    preprocess = StepOperator(task_id="preprocess", command="preprocess")
    # A lost worker and a stopped machine count as tries too, and a try costs little: it reconnects or resumes. Airflow runs one try at a time, so a
    # trainer on another machine that still has the lease is one that was lost: it may be replaced once its lease has run out.
    train = StepOperator(task_id="train", command="train", arguments=["--take-over"], retries=5, retry_delay=timedelta(seconds=30))
    report = StepOperator(task_id="report", command="report")

    validate >> [fetch_coco, fetch_snapshot] >> preprocess >> train >> report
