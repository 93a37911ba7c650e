"""Run directories as a trainer leaves them, for the page that shows them."""

import json
import math

UNIX = 1_790_000_000.0


def step_line(step, loss=None, **more):
    loss = 1.0 / step if loss is None else loss
    line = {"v": 1, "kind": "train", "time": UNIX + step, "step": step, "loss": loss, "loss_2d": loss / 2, "loss_pof": loss / 2}
    line.update(baseline_2d=0.6, baseline_pof=0.4, lr=1e-3, grad_norm=2.0, seconds=0.5, waited=0.1, sample=step, ids="00000000", **more)
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}


def event(kind, step, **more):
    return {"v": 1, "kind": kind, "time": UNIX + step, "step": step, **more}


def write(path, lines, mode="w"):
    with open(path, mode) as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)


def make_run(run_dir, last=20):
    """A run of 20 steps (of `last`) with two checkpoints, one of them uploaded, an evaluation, a picture and a report."""
    (run_dir / "checkpoints" / "step-00000020").mkdir(parents=True)
    start = event("start", 0, uid="u", parameters=1000, flop_per_image=1e9, dead_terms=["loss_pof"], versions={"tensorflow": "1.15.0"})
    start["device"] = {"kind": "cpu", "name": "some CPU", "flop_per_second": 1e10}
    lines = [start, *map(step_line, range(1, 21))]
    lines.insert(11, event("evaluation", 10, metric="pck", score=0.4, samples=9, best=True))
    lines.insert(12, event("checkpoint", 10, path="/gone", bytes=5, seconds=0.2, stalled=0.01, copied=0.01))
    lines.insert(13, event("upload", 10, uri="file:///storage/run/checkpoints/step-00000010", seconds=0.3))
    lines += [event("checkpoint", 20, path="/here", bytes=5, seconds=0.2, stalled=0.02, copied=0.01), event("end", 20, status="success", seconds=9.0)]
    write(run_dir / "metrics.jsonl", lines)
    config = {"name": "demo", "train": {"steps": last, "batch_size": 4}, "evaluation": {"metric": "pck"}, "fetch": {"source": "synthetic"}}
    (run_dir / "config.json").write_text(json.dumps({**config, "storage": {"uri": "storage"}}))
    queue = {"step-00000010": {"state": "uploaded"}, "step-00000020": {"state": "failed", "reason": "no such bucket"}}
    (run_dir / "uploads.json").write_text(json.dumps({"checkpoints": queue}))
    picture = run_dir / "previews" / "step-00000010"
    picture.mkdir(parents=True)
    (picture / "sheet.jpg").write_bytes(b"\xff\xd8jpeg")
    sample = {"name": "a.jpg", "joints": [[0, 0, 0], None], "scores": [1, 0]}
    (picture / "skeletons.json").write_text(json.dumps({"v": 1, "step": 10, "joints": ["neck", "nose"], "edges": [[0, 1]], "samples": [sample]}))
    (run_dir / "report.html").write_text("<h1>Report</h1>")
    return run_dir
