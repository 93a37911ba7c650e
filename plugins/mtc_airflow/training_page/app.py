"""The routes of the Training page, below `/mtc` on Airflow's API server. Imported by the API server only (`plugins/mtc_plugin.py`).

Names that FastAPI reads from annotations have to be globals of this module.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from airflow.models import DagRun
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel
from sqlalchemy import select
from starlette.exceptions import HTTPException as StarletteHTTPException

from mtc_airflow import environment
from mtc_airflow.training_page import access, series, summary
from mtc_airflow.training_page.history import Histories

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_LISTED = 200
"""Runs in the list, the newest."""
LIST_SECONDS = 2.0
"""How long the list may read journals for one answer; what it did not come to is asked for again."""
ASK_SECONDS = 20
"""How long the command that passes a request on may take."""

_POLICY = "; ".join(
    f"{what}-src 'self'" if source is None else f"{what} {source}"
    for what, source in (
        ("default-src", "'none'"), ("script", None), ("style", None), ("connect", None), ("frame", None), ("img-src", "'self' data:"),
        ("base-uri", "'none'"), ("form-action", "'none'"), ("frame-ancestors", "'self'"),
    )
)  # fmt: skip
HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store"}
# The report styles its pictures within itself and runs nothing.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox; frame-ancestors 'self'"


KnownRun = Annotated[DagRun, Depends(access.run)]


class Wish(BaseModel):
    """What somebody wants of a training that runs."""

    action: Literal["save", "stop", "steps", "lr_factor"]
    value: float | None = None


def build_app() -> FastAPI:
    """The app; Airflow mounts it below `/mtc`."""
    # The dependency covers the routes that are declared on the app, so nothing is mounted, and there are no pages of FastAPI's own.
    app = FastAPI(title="mtc", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])
    histories, briefs = Histories(), _Briefs()
    look = [access.may_look]
    assets = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in TYPES}

    @app.get("/run", dependencies=look)
    def page(dag_id: str) -> Response:
        return _file(STATIC / "run.html")

    @app.get("/runs")
    def list_page() -> Response:
        return _file(STATIC / "runs.html")

    @app.get("/static/{name:path}")
    def asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "there is no such file")
        return _file(assets[name])

    @app.get("/api/run", dependencies=look)
    def run(dag_id: str, run_id: str, found: KnownRun, user: GetUserDep):
        directory = access.folder(dag_id, run_id)
        answer = summary.of_run(directory, histories.of(directory))
        return JSONResponse({**answer, **_of_airflow(found), "may_act": access.allowed("PUT", dag_id, user)}, headers=HEADERS)

    @app.get("/api/series", dependencies=look)
    def curves(
        dag_id: str,
        run_id: str,
        found: KnownRun,
        points: Annotated[int, Query(ge=1, le=series.MOST_POINTS)] = 800,
        first: int | None = None,
        last: int | None = None,
    ):
        return JSONResponse(series.thin(histories.of(access.folder(dag_id, run_id)), points, first, last), headers=HEADERS)

    @app.get("/api/runs")
    def runs(session: SessionDep, dags: Annotated[list[str], Depends(access.readable_dags)]):
        order = DagRun.run_after.desc(), DagRun.id.desc()
        found = session.scalars(select(DagRun).where(DagRun.dag_id.in_(dags)).order_by(*order).limit(MOST_LISTED)).all()
        return JSONResponse(_listed(found, briefs), headers=HEADERS)

    @app.get("/api/skeletons", dependencies=look)
    def skeletons(dag_id: str, run_id: str, step: Annotated[int, Query(ge=0)], found: KnownRun):
        return _picture(dag_id, run_id, step, "skeletons.json", "application/json")

    @app.get("/sheet", dependencies=look)
    def sheet(dag_id: str, run_id: str, step: Annotated[int, Query(ge=0)], found: KnownRun):
        return _picture(dag_id, run_id, step, "sheet.jpg", "image/jpeg")

    @app.get("/report", dependencies=look)
    def report(dag_id: str, run_id: str, found: KnownRun):
        directory = access.folder(dag_id, run_id)
        path = access.inside(directory / "report.html", directory)
        if not path.is_file():
            raise HTTPException(404, "there is no report yet")
        return FileResponse(path, media_type="text/html", headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    @app.post("/api/control", dependencies=[access.may_act, Depends(access.same_origin)])
    def control(dag_id: str, run_id: str, wish: Wish, found: KnownRun, user: GetUserDep):
        directory = access.folder(dag_id, run_id)
        code, said = _ask(directory, wish, user.get_name())
        if code:
            raise HTTPException(409 if code == 2 else 500, said)
        return JSONResponse({"said": said}, headers=HEADERS)

    @app.exception_handler(StarletteHTTPException)
    def refuse(request: Request, error: StarletteHTTPException):
        if error.status_code == 401 and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)))
        return JSONResponse({"detail": error.detail}, error.status_code, headers=HEADERS)

    return app


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=TYPES[path.suffix], headers={**HEADERS, "Cache-Control": "no-cache"})


def _picture(dag_id: str, run_id: str, step: int, name: str, kind: str) -> Response:
    directory = access.folder(dag_id, run_id)
    path = access.inside(directory / "previews" / f"step-{step:08d}" / name, directory)
    if not path.is_file():
        raise HTTPException(404, f"there are no pictures of step {step}")
    return FileResponse(path, media_type=kind, headers=HEADERS)


def _of_airflow(found: DagRun) -> dict:
    moments = {name: getattr(found, name) for name in ("run_after", "start_date", "end_date")}
    return {"dag_id": found.dag_id, "run_id": found.run_id, "state": str(found.state), **{k: v and v.isoformat() for k, v in moments.items()}}


def _ask(directory: Path, wish: Wish, who: str) -> tuple[int, str]:
    """Pass a wish on to the trainer by the command that is there for it. Returns (exit code, what it said)."""
    words = [wish.action.replace("_", "-")]
    if wish.value is not None:
        if wish.action == "steps" and (not math.isfinite(wish.value) or wish.value != int(wish.value)):
            return 2, "the last step has to be a whole number"
        words.append(str(int(wish.value)) if wish.action == "steps" else repr(wish.value))
    command = [sys.executable, "-c", environment.CONTROL, "--run-dir", str(directory), f"--by={who}", "--wait", "0", *words]
    try:
        done = subprocess.run(
            command, cwd=environment.project(), env=environment.clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=ASK_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, "the request could not be written in time"
    lines = [line.removeprefix("error: ") for line in (done.stderr if done.returncode else done.stdout).strip().splitlines()]
    return done.returncode, lines[-1] if lines else f"tasks.control ended with {done.returncode}"


class _Briefs:
    """What the list says of each run, made again only where its journal has changed."""

    def __init__(self):
        self._known: dict[Path, tuple] = {}
        self._histories = Histories()

    def of(self, directory: Path, until: float) -> dict | None:
        """The brief of a run, or None where it would have to be read and the time is up."""
        try:
            found = (directory / "metrics.jsonl").stat()
            version = found.st_ino, found.st_size, found.st_mtime_ns
        except OSError:
            version = (0, 0, 0)
        known = self._known.get(directory)
        live = summary.trainer(directory) is not None
        if known and known[0] == (*version, live):
            return known[1]
        if time.monotonic() > until:
            return None
        made = summary.brief(directory, self._histories.of(directory))
        self._known[directory] = (*version, live), made
        return made


def _listed(found, briefs: _Briefs) -> dict:
    until, rows = time.monotonic() + LIST_SECONDS, []
    for dag_run in found:
        try:
            said = briefs.of(access.folder(dag_run.dag_id, dag_run.run_id), until)
        except HTTPException:  # a run directory that leads elsewhere
            said = {}
        rows.append({**_of_airflow(dag_run), **(said or {}), "read": said is not None})
    return {"runs": rows, "complete": all(row["read"] for row in rows)}
