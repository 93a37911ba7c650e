"""The arrows between the parts: who may import whom, and what the older interpreter can read."""

import ast
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOORS = {
    "errors": 0, "quiet": 0, "lock": 0, "files": 0, "parallel": 0, "step_ranges": 0,
    "sections": 0, "config": 0, "skeleton": 0, "geometry": 0, "upsample": 0,
    "coco": 1, "devices": 1, "nets": 1, "snapshot": 1, "targets": 2, "losses": 2, "data": 2, "storage": 2, "fetch": 2,
    "training": 3, "evaluation": 2, "report": 4,
}  # fmt: skip


def modules(folder):
    for path, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if name.endswith(".py"):
                yield os.path.relpath(os.path.join(path, name), ROOT)


def imported(path):
    """Yield the dotted names that a file imports, wherever in it."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        tree = ast.parse(f.read(), path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield "{}.{}".format(node.module, alias.name)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("mtc", ("airflow", "tasks", "mtc_airflow")), ("tasks", ("airflow", "mtc_airflow")), ("dags", ("mtc", "tasks", "tensorflow", "cv2", "numpy"))],
)
def test_dependencies_point_one_way(folder, forbidden):
    found = [(path, name) for path in modules(folder) for name in imported(path) if name.split(".")[0] in forbidden]
    assert found == []


def test_the_floors_of_the_library_are_kept():
    wrong = []
    for path in modules("mtc"):
        part = path.split(os.sep)[1].replace(".py", "")
        for name in imported(path):
            target = name.split(".")[1] if name.startswith("mtc.") else None
            if part in FLOORS and target in FLOORS and FLOORS[target] > FLOORS[part]:
                wrong.append((path, name))
    assert wrong == []


def test_every_part_of_the_library_has_a_floor():
    parts = {path.split(os.sep)[1].replace(".py", "") for path in modules("mtc")} - {"__init__"}
    assert parts - set(FLOORS) == set()


def test_tensorflow_is_always_the_v1_interface():
    found = [(path, name) for folder in ("mtc", "tasks") for path in modules(folder) for name in imported(path) if name.split(".")[0] == "tensorflow"]
    # The second: protocol buffers of session options. The third: the one writer of Chrome's traces, which has no public name.
    allowed = ("tensorflow.compat.v1", "tensorflow.core", "tensorflow.python.client.timeline")
    assert [(path, name) for path, name in found if not name.startswith(allowed)] == []
