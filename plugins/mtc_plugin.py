"""Registers the Training page with Airflow: a tab on each DAG run and task instance, and a page with all trainings.

Airflow runs this file itself and everything else in this folder only as far as it is imported here (`.airflowignore`); a plugin's file becomes a
module of its own name, so none may be called `mtc` or `tasks`.
"""

from __future__ import annotations

import os
from functools import cached_property
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/mtc"
BASE = urlsplit(os.environ.get("AIRFLOW__API__BASE_URL", "")).path.rstrip("/")
"""Where Airflow is below its server's root."""


def _tab(destination: str) -> dict[str, object]:
    return {
        "name": "Training",
        "href": f"{BASE}{PREFIX}/run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
        "destination": destination,
        "url_route": f"mtc_training{'' if destination == 'dag_run' else '_' + destination}",
        "applies_to": {"dag.dag_id": ["mtc_train"]},  # for Airflow 3.4; 3.3 shows the tab on every DAG, and the page says where it belongs
    }


class MtcTrainingPlugin(AirflowPlugin):
    """What Airflow asks of a plugin."""

    name = "mtc_training"
    external_views = [
        _tab("dag_run"),
        _tab("task_instance"),
        {"name": "Trainings", "href": f"{BASE}{PREFIX}/runs", "destination": "nav", "url_route": "mtc_trainings", "category": "browse"},
    ]

    @cached_property
    def fastapi_apps(self):
        """The page's routes; only the API server asks for them, so only it imports them."""
        from mtc_airflow.training_page import app

        return [{"app": app.build_app(), "url_prefix": PREFIX, "name": "mtc training"}]
