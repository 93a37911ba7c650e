"""Run the DAG once, from its first task to its last, in this process: no scheduler, no server, Airflow's database only.

`python -m mtc_airflow.run_dag RUN_AFTER CONF`, the process that `mtc_airflow.demo` watches. RUN_AFTER is an ISO time that names the run
(`manual__<RUN_AFTER>`), CONF the run's conf in JSON. Ctrl-C ends it after the running step has saved (`StepOperator.execute`). Exit code 0: success.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime

from mtc_airflow import environment

DAG_ID = "mtc_train"


def main(argv: list[str]) -> int:
    """Run and return the exit code."""
    environment.complete()
    run_after, conf = datetime.fromisoformat(argv[0]), json.loads(argv[1])
    # A process that a script started in the background ignores SIGINT, unless it says otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if DAG_ID not in bag.dags:
        raise SystemExit("\n".join(bag.import_errors.values()) or f"there is no DAG {DAG_ID} in {bag.dag_folder}")
    run = bag.dags[DAG_ID].test(run_after=run_after, logical_date=run_after, run_conf=conf)
    return 0 if run.state == "success" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
