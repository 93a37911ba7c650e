import json

import numpy as np
import pytest

from mtc.data import crop, readers
from mtc.evaluation import baselines, network
from mtc.skeleton import SKELETONS
from mtc.training import checkpoints
from tasks import report
from test.report import fake_run


def prepare(patch, folder, config, noise=1.0, count=60, training=150, in_3d=False, checkpoint=None):
    """Set the readers, the predictor and the newest checkpoint that a report will find."""
    skeleton = SKELETONS[config.model.kind]
    tested, taught = (fake_run.samples(folder, n, seed, config.model.kind, in_3d) for n, seed in ((count, 1), (training, 2)))
    shown = baselines.evenly(tested, config.report.samples)
    truth = [crop.crop_sample(s, size=config.model.crop, config=config, skeleton=skeleton, rng=None).uv for s in shown]
    patch.setattr(readers, "training", lambda config: {"coco": taught})
    patch.setattr(readers, "held_out", lambda config: tested)
    patch.setattr(network, "Predictor", fake_run.predictor(np.array(truth), skeleton, noise))
    patch.setattr(checkpoints, "newest_good", lambda run_dir: checkpoint)


def make_report(run_dir, *overrides):
    """Run the step as a command; return its exit code and report.json, or None where there is none."""
    chosen = ["--config", "demo", "--run-dir", run_dir]
    for override in fake_run.SMALL + overrides:
        chosen += ["--set", override]
    code = report.main(chosen)
    try:
        with open(run_dir + "/report.json") as f:
            return code, json.load(f, parse_constant=pytest.fail)
    except FileNotFoundError:
        return code, None


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Return `prepare` for one test."""
    return lambda *arguments, **more: prepare(monkeypatch, tmp_path, *arguments, **more)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return the run directory of a finished run with its report, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("clean")
    run_dir = str(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, folder, fake_run.config(), checkpoint=fake_run.finished(run_dir))
        assert make_report(run_dir)[0] == 0
    return run_dir
