"""Makes the pictures of the README: `python scripts/pictures.py RUN_ID REPORT_HTML`, while `make airflow` runs.

Needs Debian's chromium and the Python package playwright (of which no browser is downloaded): pip install playwright.
"""

import os
import sys

from playwright.sync_api import sync_playwright

DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
BROWSER = {
    "executable_path": "/usr/bin/chromium",
    "args": ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
}


def main(run_id, report):
    """Write docs/airflow.png and docs/report.png."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**BROWSER)
        page = browser.new_page(viewport={"width": 1280, "height": 560})
        page.goto("http://127.0.0.1:{}/dags/mtc_train/runs/{}".format(os.environ.get("MTC_PORT", "8080"), run_id))
        page.wait_for_load_state("networkidle")
        page.get_by_role("button", name="Graph").first.click()
        page.wait_for_timeout(4000)  # the layout of the graph is animated
        page.screenshot(path=os.path.join(DOCS, "airflow.png"))
        page.set_viewport_size({"width": 1040, "height": 860})
        page.goto("file://" + os.path.abspath(report))
        page.screenshot(path=os.path.join(DOCS, "report.png"))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
