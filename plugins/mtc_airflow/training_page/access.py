"""Who may look and who may act, and which folder a request means: everything that keeps the Training page shut.

Airflow mounts a plugin's app without any login. So the app itself asks for a user on every route, and each route for rights on the DAG: to read its
runs for looking, to edit them for acting. A run is one that Airflow knows, of a DAG that trains; its folder has to lie in the folder of runs, also
after symbolic links. What changes something has to come from a page of this server: with `simple_auth_manager_all_admins` every request is an
administrator's, and a cookie's SameSite protects nothing.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models import DagRun
from fastapi import Depends, HTTPException, Request
from sqlalchemy import select

from mtc_airflow import environment, run_directory

DAGS = ("mtc_train",)
"""DAGs whose runs train."""

may_look = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
"""The user may see runs of the DAG in the query."""
may_act = Depends(requires_access_dag("PUT", DagAccessEntity.RUN))
"""The user may change them."""


def allowed(method: str, dag_id: str, user) -> bool:
    """Whether the user may see (GET) or change (PUT) runs of a DAG."""
    return get_auth_manager().is_authorized_dag(method=method, access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id), user=user)


def readable_dags(user: GetUserDep) -> list[str]:
    """Those of `DAGS` whose runs the user may see."""
    return [dag_id for dag_id in DAGS if allowed("GET", dag_id, user)]


def same_origin(request: Request) -> None:
    """Refuse what a page of another site sends. Browsers send Origin with every POST; other programs, which no foreign page controls, send none."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if (site and site not in ("same-origin", "none")) or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "the request comes from another site")


def run(dag_id: str, run_id: str, session: SessionDep) -> DagRun:
    """The run that a request means. Errors: 404 where there is none, or its DAG does not train."""
    if dag_id not in DAGS:
        raise HTTPException(404, f"{dag_id} does not train; the DAG that does is {DAGS[0]}")
    found = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if found is None:
        raise HTTPException(404, f"{dag_id} has no run {run_id}")
    return found


def folder(dag_id: str, run_id: str) -> Path:
    """The run directory, which need not exist yet. Errors: 404 where it is not below the folder of runs."""
    directory = run_directory.run_directory(dag_id, run_id)
    return inside(directory, environment.runs())


def inside(path: Path, root: Path) -> Path:
    """`path`, provided that it lies below `root` when all symbolic links are followed. Errors: 404."""
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise HTTPException(404, "there is no such file")
    return real
