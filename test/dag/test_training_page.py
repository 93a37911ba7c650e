"""The Training page's routes on Airflow's API server: who may look, who may act, and that no request leaves the folder of runs."""

import json
import os

import pytest

from mtc_airflow import environment, run_directory
from test.dag.conftest import HOME
from test.dag.training_runs import make_run

RUN = "manual__2026-01-02T03:04:05+00:00"
WHO = {"dag_id": "mtc_train", "run_id": RUN}


@pytest.fixture(scope="module")
def web(dag):
    """A client of the API server, with a run in the database and its files on the disk."""
    from airflow.api_fastapi.app import create_app
    from airflow.configuration import conf
    from fastapi.testclient import TestClient

    passwords = HOME / "airflow" / "passwords.json"
    passwords.write_text(json.dumps({"admin": "a", "bob": "b"}))
    conf.set("core", "simple_auth_manager_users", "admin:admin,bob:viewer")
    conf.set("core", "simple_auth_manager_passwords_file", str(passwords))
    conf.set("core", "simple_auth_manager_all_admins", "False")
    record_run(dag)
    make_run(run_directory.run_directory("mtc_train", RUN))
    with TestClient(create_app(apps="core"), base_url="http://airflow.test", raise_server_exceptions=False) as client:
        yield client


def record_run(dag):
    """Have Airflow know the run."""
    from airflow.models import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with create_session() as session:
        session.add(DagRun(dag_id="mtc_train", run_id=RUN, run_type=DagRunType.MANUAL, state="success", triggered_by=DagRunTriggeredByType.TEST))


@pytest.fixture(scope="module")
def tokens(web):
    found = {}
    for name, password in (("admin", "a"), ("bob", "b")):
        answer = web.post("/auth/token", json={"username": name, "password": password})
        assert answer.status_code == 201, answer.text
        found[name] = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return found


def routes():
    """(method, path) of every route of the page."""
    from mtc_airflow.training_page import app

    return [(method, route.path) for route in app.build_app().routes for method in sorted(route.methods)]


def test_there_is_nothing_but_the_declared_routes():
    assert sorted(routes()) == sorted(
        [
            ("GET", path)
            for path in ("/run", "/runs", "/static/{name:path}", "/api/run", "/api/series", "/api/runs", "/api/skeletons", "/sheet", "/report")
        ]
        + [("POST", "/api/control")]
    )


@pytest.mark.parametrize(("method", "path"), routes())
def test_no_route_answers_a_stranger(web, method, path):
    answer = web.request(
        method, "/mtc" + path.replace("{name:path}", "page.css"), params={**WHO, "step": 10}, json={"action": "stop"}, follow_redirects=False
    )
    assert answer.status_code == 401


def test_the_plugin_loads_and_registers_the_tabs(web):
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    assert plugins_manager.get_import_errors() == {}


def test_a_stranger_who_opens_the_page_is_sent_to_the_login(web):
    answer = web.get("/mtc/run", params=WHO, headers={"Accept": "text/html"}, follow_redirects=False)
    assert answer.status_code == 307
    assert "/auth/login" in answer.headers["location"]


@pytest.mark.parametrize("path", ["/run", "/runs", "/static/run.js", "/api/run", "/api/series", "/api/runs", "/api/skeletons", "/sheet", "/report"])
def test_a_viewer_may_look(web, tokens, path):
    answer = web.get("/mtc" + path, params={**WHO, "step": 10}, headers=tokens["bob"])
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'self'" in policy
    assert ("unsafe" in policy) == (path == "/report")


def test_a_viewer_may_not_act_and_is_told_so(web, tokens):
    assert web.post("/mtc/api/control", params=WHO, json={"action": "stop"}, headers=tokens["bob"]).status_code == 403
    assert web.get("/mtc/api/run", params=WHO, headers=tokens["bob"]).json()["may_act"] is False
    assert web.get("/mtc/api/run", params=WHO, headers=tokens["admin"]).json()["may_act"] is True
    assert not (run_directory.run_directory("mtc_train", RUN) / "control.jsonl").exists()


def test_the_list_names_the_run_with_its_curve(web, tokens):
    found = web.get("/mtc/api/runs", headers=tokens["bob"]).json()
    assert found["complete"] is True
    row = next(row for row in found["runs"] if row["run_id"] == RUN)
    assert (row["status"], row["step"], row["best"], len(row["spark"])) == ("success", 20, 0.4, 20)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_a_request_from_another_site_is_refused(web, tokens, headers):
    answer = web.post("/mtc/api/control", params=WHO, json={"action": "stop"}, headers={**tokens["admin"], **headers})
    assert answer.status_code == 403


def test_a_request_from_the_page_itself_reaches_the_trainer_or_hears_that_there_is_none(web, tokens):
    headers = {**tokens["admin"], "Origin": "http://airflow.test", "Sec-Fetch-Site": "same-origin"}
    answer = web.post("/mtc/api/control", params=WHO, json={"action": "stop"}, headers=headers)
    assert answer.status_code == 409
    assert "nobody trains in" in answer.json()["detail"]


@pytest.mark.parametrize("wish", [{"action": "dance"}, {"action": "steps", "value": "x"}, {}, {"action": "steps; rm -rf /", "value": 1}])
def test_a_wish_that_makes_no_sense_is_refused(web, tokens, wish):
    assert web.post("/mtc/api/control", params=WHO, json=wish, headers=tokens["admin"]).status_code == 422


@pytest.mark.parametrize("run_id", ["../../etc", "..", "", ".", "/etc/passwd", "%2e%2e%2f", "a" * 5000, "manual__\0", "nobody's", "-rf", "--help"])
@pytest.mark.parametrize("path", ["/api/run", "/api/series", "/report", "/sheet", "/api/skeletons"])
def test_odd_run_ids_find_nothing(web, tokens, run_id, path):
    answer = web.get("/mtc" + path, params={"dag_id": "mtc_train", "run_id": run_id, "step": 10}, headers=tokens["admin"])
    assert answer.status_code == 404


@pytest.mark.parametrize("dag_id", ["other", "~", "", "../mtc_train", "mtc_train/.."])
def test_dags_that_do_not_train_have_no_page(web, tokens, dag_id):
    answer = web.get("/mtc/api/run", params={"dag_id": dag_id, "run_id": RUN}, headers=tokens["admin"])
    assert answer.status_code in (403, 404)


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "vendor/../../app.py", "run.html/../../history.py", ""])
def test_only_the_page_s_own_files_are_served(web, tokens, name):
    assert web.get(f"/mtc/static/{name}", headers=tokens["admin"]).status_code in (404, 405)


def test_links_that_lead_out_of_a_run_are_not_followed(web, tokens, tmp_path, dag):
    run = run_directory.run_directory("mtc_train", RUN)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "report.html").write_text("secret")
    (run / "report.html").rename(run / "report.bak")
    (run / "report.html").symlink_to(secret / "report.html")
    (run / "previews" / "step-00000011").symlink_to(secret)
    os.symlink(secret / "report.html", secret / "sheet.jpg")
    try:
        assert web.get("/mtc/report", params=WHO, headers=tokens["admin"]).status_code == 404
        assert web.get("/mtc/sheet", params={**WHO, "step": 11}, headers=tokens["admin"]).status_code == 404
        moved = run.with_name("moved")
        run.rename(moved)
        run.symlink_to(secret)
        assert web.get("/mtc/api/run", params=WHO, headers=tokens["admin"]).status_code == 404
        run.unlink()
        moved.rename(run)
    finally:
        (run / "previews" / "step-00000011").unlink()
        (run / "report.html").unlink()
        (run / "report.bak").rename(run / "report.html")
    assert environment.runs() in run.parents


def test_curves_come_in_the_points_and_steps_that_were_asked_for(web, tokens):
    answer = web.get("/mtc/api/series", params={**WHO, "points": 5, "first": 11, "last": 20}, headers=tokens["bob"]).json()
    assert answer["steps"] == [12, 14, 16, 18, 20]
    assert web.get("/mtc/api/series", params={**WHO, "points": 10**9}, headers=tokens["bob"]).status_code == 422
