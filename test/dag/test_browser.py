"""The UI as a person uses it, in Chromium: log in, fill the form, trigger, watch, stop and save, go on, read the report; light, dark, on a phone.

With MTC_PICTURES=folder, as `make pictures` sets it, the pictures of docs/ are made on the way.
"""

import contextlib
import json
import os
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from test.dag.conftest import HOME, REAL_PYTHON, quick_python, wait_for
from test.dag.local_airflow import running

pytestmark = pytest.mark.timeout(900)  # what is waited for has limits of its own

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PICTURES = os.environ.get("MTC_PICTURES")
WAIT = 120_000
"""Milliseconds that anything may take on a machine that is busy."""
expect.set_options(timeout=WAIT)
TINY = """
name: tiny
data: {{root: {folder}/data, mix: {{coco: 1, synthetic3d: 1}}}}
synthetic: {{train_images: {images}, val_images: 12, samples_3d: {images}}}
model: {{kind: body, width: {width}, stages: 2, crop: 64}}
targets: {{sigma: 4.0, limb_width: 3.0}}
snapshot: {{uri: none}}
fetch: {{source: synthetic}}
storage: {{uri: {folder}/storage}}
train: {{steps: 100000, batch_size: {batch}, threads: 1, lr: [1.0e-3], lr_steps: [], snapshot_every: 50, log_every: 10}}
evaluation: {{samples: 6}}
previews: {{every: 50}}
report: {{samples: 12, pictures: 2}}
"""


TURN = """canvas => {  // in one go: a new picture may arrive at any time
    const key = (name) => canvas.dispatchEvent(new KeyboardEvent('keydown', {key: name, cancelable: true}));
    const before = canvas.toDataURL();
    key('ArrowRight');
    const turned = canvas.toDataURL() !== before;
    key('Home');
    return [turned, canvas.toDataURL() === before];
}"""


@pytest.fixture(scope="module")
def airflow():
    """An Airflow with login and a preset whose training goes on until somebody stops it."""
    if not os.access(REAL_PYTHON, os.X_OK):
        pytest.skip(f"no training interpreter at {REAL_PYTHON}; set MTC_PYTHON")
    home = HOME / "browser"
    home.mkdir(parents=True)
    preset = home / "tiny.yaml"
    size = {"images": 300, "width": 0.25, "batch": 4} if PICTURES else {"images": 12, "width": 0.05, "batch": 2}
    preset.write_text(TINY.format(folder=home, **size))
    (home / "airflow").mkdir()
    (home / "airflow" / "simple_auth_manager_passwords.json.generated").write_text(json.dumps({"admin": "secret", "bob": "secret"}))
    users = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,bob:viewer"}
    with running(home, MTC_PYTHON=REAL_PYTHON if PICTURES else quick_python(), MTC_PRESET=str(preset), **users) as local:
        local.log_in("admin", "secret")
        yield local


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@contextlib.contextmanager
def window(chromium, airflow, user="admin", width=1280, height=900, theme="light"):
    """A browser window in which a person has logged in; complaints of the page are failures."""
    address = f"http://127.0.0.1:{airflow.port}"
    context = chromium.new_context(viewport={"width": width, "height": height}, base_url=address)
    with contextlib.closing(context):  # a page that is left open goes on drawing, and slows down all tests after it
        context.add_init_script(f"try {{ localStorage.setItem('theme', '{theme}') }} catch {{}}")
        page = context.new_page()
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if "Content Security Policy" in message.text else None)
        page.on("requestfailed", lambda request: None if request.url.startswith((address, f"blob:{address}")) else complaints.append(request.url))
        page.set_default_timeout(WAIT)
        page.goto("/dags/mtc_train")
        page.fill("input[name=username]", user)
        page.fill("input[type=password]", "secret")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/dags/mtc_train")
        yield page
        assert complaints == []


def picture(page, name, **options):
    if PICTURES:
        page.wait_for_timeout(1500)  # for the charts' last frame
        page.screenshot(path=os.path.join(PICTURES, name), **options)


@pytest.fixture(scope="module")
def run_id(chromium, airflow):
    """A run that was triggered by filling in the form."""
    with window(chromium, airflow) as page:
        page.get_by_role("button", name="Trigger").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Training", exact=True).click()
        dialog.locator("input[name=element_steps]").fill("90000")
        dialog.get_by_role("button", name="Data and storage").click()
        dialog.locator("input[name=element_shards]").fill("3")
        picture(page, "trigger.png")
        dialog.get_by_role("button", name="Trigger", exact=True).click()
        expect(dialog).to_be_hidden()
    runs = wait_for(lambda: airflow.rest("GET", "/api/v2/dags/mtc_train/dagRuns")["dag_runs"], "the run", 60)
    assert runs[0]["conf"]["steps"] == 90000
    assert runs[0]["conf"]["shards"] == 3
    return runs[0]["dag_run_id"]


def tab(page, run_id):
    """Open the run's tab Training by clicking on it; returns the page inside."""
    page.goto(f"/dags/mtc_train/runs/{run_id.replace('+', '%2B')}")
    page.get_by_role("link", name="Training", exact=True).click()
    return page.frame_locator("iframe")


def step_of(inside):
    """The step that the page says."""
    words = inside.locator("#headline").inner_text()
    return int(words.split("step ")[1].split(" of")[0].replace(",", "")) if "step " in words else 0


def test_the_page_says_what_is_going_on_before_the_first_step_and_then_the_curve_grows(chromium, airflow, run_id):
    with window(chromium, airflow, height=1400 if PICTURES else 900) as page:
        inside = tab(page, run_id)
        expect(inside.locator("#headline")).to_contain_text("the DAG run is running")
        wait_for(lambda: step_of(inside) > 0, "the first step", 240)
        first = step_of(inside)
        expect(inside.locator("#charts canvas").first).to_be_visible()
        expect(inside.locator("#charts .plot[role=img]").first).to_have_attribute("aria-label", re.compile("^Loss: loss"))
        wait_for(lambda: step_of(inside) > first, "another step", 60)
        expect(inside.locator("#headline")).to_contain_text("of 90,000")
        expect(inside.locator("#checkpoints tbody tr").first).to_contain_text("uploaded")
        expect(inside.locator("#pictures")).to_be_visible()
        if PICTURES:
            wait_for(lambda: step_of(inside) > 200, "a curve that is worth a picture", 240)
        picture(page, "training.png")


def test_a_skeleton_is_turned_by_keys_and_charts_are_zoomed_by_numbers(chromium, airflow, run_id):
    with window(chromium, airflow) as page:
        inside = tab(page, run_id)
        canvas = inside.locator("#skeleton")
        expect(canvas).to_have_attribute("aria-label", re.compile("joints. Arrow keys turn it"))
        assert canvas.evaluate(TURN) == [True, True]
        inside.locator("#first").fill("10")
        inside.locator("#last").fill("30")
        inside.locator("#last").press("Enter")
        inside.locator("#charts figure").first.locator("summary").click()
        expect(inside.locator("#charts figure").first.locator("tbody tr").last.locator("th")).to_have_text("30")


def test_a_viewer_may_look_but_the_buttons_say_why_they_are_off(chromium, airflow, run_id):
    with window(chromium, airflow, user="bob") as page:
        inside = tab(page, run_id)
        expect(inside.locator("#actions-why")).to_contain_text("You may look, but not act")
        expect(inside.locator("#stop")).to_be_disabled()


def test_dark_mode_and_a_phone(chromium, airflow, run_id):
    with window(chromium, airflow, theme="dark") as page:
        inside = tab(page, run_id)
        expect(inside.locator("#charts canvas").first).to_be_visible()
        assert inside.locator("body").evaluate("b => getComputedStyle(b).backgroundColor") == "rgb(20, 25, 31)"
        picture(page, "training-dark.png")
    with window(chromium, airflow, width=390, height=800) as page:
        page.goto(f"/mtc/run?dag_id=mtc_train&run_id={run_id.replace('+', '%2B')}")
        expect(page.locator("#charts canvas").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        picture(page, "training-phone.png")


def test_save_now_lower_rate_and_stop_and_save_reach_the_trainer_and_the_next_try_goes_on(chromium, airflow, run_id):
    run_dir = airflow.run_dir(run_id)
    with window(chromium, airflow) as page:
        inside = tab(page, run_id)
        inside.locator("#save").click()
        expect(inside.locator("#asked")).to_contain_text("it looks between two steps")
        inside.locator("#lr").fill("0.25")
        inside.get_by_role("button", name="Lower").click()
        expect(inside.locator("#warnings")).to_contain_text("the learning rate is 0.25 times the schedule's")
        inside.locator("#stop").click()
        inside.get_by_role("dialog").get_by_role("button", name="Stop and save").click()
        expect(inside.locator("#headline")).to_contain_text("Stopped after saving")
        stopped_at = step_of(inside)
    wait_for(lambda: airflow.state(run_id, "train") == "failed", "the end of the task", 60)
    record = json.loads((run_dir / "steps" / "train.json").read_text())
    assert record["requested_by"] == "admin"
    assert airflow.found(run_id, "train")["try_number"] == 1
    wait_for(lambda: airflow.state(run_id) == "failed", "the end of the run", 120)

    airflow.rest(
        "POST",
        "/api/v2/dags/mtc_train/clearTaskInstances",
        {"dry_run": False, "dag_run_id": run_id, "task_ids": ["train"], "include_downstream": True, "reset_dag_runs": True},
    )
    with window(chromium, airflow) as page:
        inside = tab(page, run_id)
        wait_for(lambda: step_of(inside) > stopped_at, "steps after the stop", 240)
        steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]]
        trained = [line["step"] for line in steps if line["kind"] == "train"]
        assert trained == list(range(1, len(trained) + 1))
        inside.locator("#steps").fill(str(step_of(inside) + 40))
        inside.get_by_role("button", name="Change").click()
        expect(inside.locator("#headline")).to_contain_text("Trained")


def test_the_report_stands_on_the_page_of_a_finished_run(chromium, airflow, run_id):
    wait_for(lambda: airflow.state(run_id) in ("success", "failed"), "the end of the run", 240)
    assert airflow.state(run_id) == "success"
    with window(chromium, airflow) as page:
        page.goto(f"/dags/mtc_train/runs/{run_id.replace('+', '%2B')}")
        expect(page.get_by_role("link", name="Training", exact=True)).to_be_visible()
        picture(page, "airflow.png")
        inside = tab(page, run_id)
        expect(inside.locator("#report-frame")).to_be_visible()
        expect(inside.frame_locator("#report-frame").locator("h1").first).to_be_visible()


def test_all_trainings_are_listed_with_their_curves(chromium, airflow, run_id):
    with window(chromium, airflow) as page:
        page.goto("/plugin/mtc_trainings")
        inside = page.frame_locator("iframe")
        row = inside.locator("#runs tbody tr").filter(has_text=run_id)
        expect(row).to_contain_text("success")
        expect(row.locator("canvas")).to_be_visible()
        picture(page, "trainings.png")


def test_another_dag_s_run_is_told_where_the_page_belongs(chromium, airflow, run_id):
    runs = wait_for(lambda: airflow.rest("GET", "/api/v2/dags/mtc_evaluate/dagRuns")["dag_runs"], "the evaluation that the checkpoint started", 120)
    with window(chromium, airflow) as page:
        page.goto(f"/mtc/run?dag_id=mtc_evaluate&run_id={runs[0]['dag_run_id'].replace('+', '%2B')}")
        expect(page.locator("#headline")).to_contain_text("mtc_evaluate does not train; the DAG that does is mtc_train")
    evaluation = runs[0]["dag_run_id"].replace("+", "%2B")
    state = wait_for(
        lambda: (lambda s: s if s in ("success", "failed") else None)(
            airflow.rest("GET", f"/api/v2/dags/mtc_evaluate/dagRuns/{evaluation}")["state"]
        ),
        "its end",
        240,
    )
    assert state == "success"
