"""Credentials that Airflow has in its environment reach the steps, and nothing else: no file, no log, no XCom, no command line."""

import sqlite3

from test import leaks


def test_credentials_are_in_no_file_of_a_run_and_in_no_command_line(whole_job):
    assert whole_job.code == 0, whole_job.output  # so they were used
    assert whole_job.command_lines == set()
    found, count = leaks.places_of(leaks.VALUES, whole_job.folder, whole_job.server)
    assert found == []
    assert count > 50


def test_the_search_covers_logs_and_the_database_with_its_xcoms(whole_job):
    files = {path.name for path in whole_job.folder.rglob("*")}
    assert files >= {"airflow.db", "demo.log", "train.log", "metrics.jsonl", "config.json", "report.html", "output"}
    with sqlite3.connect(whole_job.folder / "airflow" / "airflow.db") as database:
        results = [text for (text,) in database.execute("SELECT value FROM xcom")]
    assert any("s3://bucket/runs" in str(text) for text in results)
