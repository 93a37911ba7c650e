"""Monocular Total Capture from data to report: `airflow dags trigger mtc_train`.

Thin on purpose: every task is a command of `tasks/` in the training interpreter, and this file is parsed again and again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TaskGroup, task

from mtc_airflow import assets, deployment, leftovers, notify, params, run_directory
from mtc_airflow.params import record_of
from mtc_airflow.step_operator import StepOperator

DOC = """
### Train Monocular Total Capture

`validate` checks the machine, the config and the storage before anything long starts; `fetch` brings the data set and the snapshot where they are not
there yet; `preprocess` makes masks, in as many tasks as there are *shards*, and `COCO.json`; `train` trains, with a checkpoint now and then that is
uploaded while training goes on, in as many *processes* as asked for, on more than one machine together with `train_with`; `evaluate` judges the last
one on held-out people; `report` writes `report.html`; `clean_up` stops what a lost worker has left running. A step whose work is done already is
shown as skipped, and its log says by whom.

* **Start**: the *Trigger* button, or `airflow dags trigger mtc_train --conf '{"preset": "coco_body", "source": "/data/coco", "device": "gpu"}'`.
  With `"dry_run": true` it only tries whether the long run would work.
* **Watch and steer**: the tab **Training** of the run: curves, predictions, checkpoints; *Stop and save*, *Save now*, last step, learning rate.
* **Stop**: there, or mark the running task as failed. It saves first; clear the task to go on from there.
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
    max_active_runs=deployment.most_runs(),
    is_paused_upon_creation=False,  # else `airflow dags trigger` on a new installation waits in "queued" for ever
    params=params.form(),
    default_args={
        "owner": "mtc",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "trigger_rule": "none_failed",  # a step that was done already is skipped, and what follows it is not
        "on_failure_callback": notify.on_failure,
    },
    deadline=deployment.deadline(),
    tags=["mtc", "training"],
) as dag:
    validate = deployment.on_device("doctor", task_id="validate", pre_execute=params.refuse_unknown)

    with TaskGroup("fetch") as fetch:
        # Airflow asks for this rule after a set-up task.
        StepOperator(task_id="coco", command="fetch coco", trigger_rule="all_success")
        StepOperator(task_id="snapshot", command="fetch snapshot", trigger_rule="all_success")

    with TaskGroup("preprocess") as preprocess:

        @task(multiple_outputs=False)
        def shards(params=None) -> list[dict]:
            """One mapped task for each shard."""
            count = params["shards"]
            return [{"arguments": ["--shard", f"{i}/{count}"], "record": f"preprocess_shard_{i}_of_{count}"} for i in range(1, count + 1)]

        masks = StepOperator.partial(task_id="masks", command="preprocess", map_index_template="shard {{ task.arguments[1] }}").expand_kwargs(
            shards()
        )
        masks >> StepOperator(task_id="merge", command="preprocess", arguments=["--merge"], outlets=[assets.DATA])

    # A lost worker and a stopped machine count as tries too, and a try costs little: it reconnects or resumes. Airflow runs one try at a time, so a
    # trainer on another machine that still has the lease is one that was lost: it may be replaced once its lease has run out.
    train = deployment.on_device(
        "train", task_id="train", arguments=["--take-over"], retries=5, retry_delay=timedelta(seconds=30), outlets=[assets.CHECKPOINT]
    )

    @task(multiple_outputs=False)
    def machines(params=None) -> list[dict]:
        """One mapped task for each machine but the first, which `train` is on."""
        return [{"record": record_of(machine)} for machine in range(1, params["machines"])]

    # They start together or not at all: who comes waits for the others (distributed.patience); where one is lost all end, and are tried again.
    more = machines()
    others = deployment.on_more_devices(
        "train", task_id="train_with", retries=5, retry_delay=timedelta(seconds=30), map_index_template="{{ task.record }}"
    ).expand_kwargs(more)
    evaluate = deployment.on_device("evaluate", task_id="evaluate")
    report = deployment.on_device("report", task_id="report", outlets=[assets.REPORT])

    @task(trigger_rule="all_done", on_failure_callback=None)
    def clean_up(dag_run=None):
        """Stop what still runs for this run though its task has ended for good."""
        leftovers.stop(run_directory.run_directory(dag_run.dag_id, dag_run.run_id))

    end = clean_up().as_teardown(setups=validate.as_setup())
    validate >> fetch >> preprocess >> train >> evaluate >> report >> end
    preprocess >> more
    others >> end
