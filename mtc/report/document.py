"""The report as files: report.json, report.html (one file, no script, nothing loaded from elsewhere), report.md and its charts.

The same figures give the same bytes. report.json is written last: where it is, the others are of the same run.
"""

import base64
import os

import jinja2
import numpy as np

from mtc import files
from mtc import skeleton as skeletons
from mtc.report import charts, pictures, verdict

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


def write(run_dir, config, figures, history, shown):
    """Write the report into a run directory and return the paths. figures: complete; shown: `held_out.Picture`s."""
    drawn, skeleton = draw_charts(figures, history), skeletons.SKELETONS[config.model.kind]
    for name, chart in drawn.items():
        files.write_bytes(os.path.join(run_dir, "charts", name + ".svg"), chart["svg"].encode("utf-8"))
    values = {
        "figures": figures,
        "charts": drawn,
        "pictures": encode_pictures(shown, skeleton),
        "settings": settings(figures),
        "has_sides": any(joint.startswith("left_") for joint in skeleton.joints),
    }
    for name in ("report.md", "report.html"):
        files.write_bytes(os.path.join(run_dir, name), render(name, values).encode("utf-8"))
    files.write_json(os.path.join(run_dir, "report.json"), figures)
    charted = [os.path.join("charts", name + ".svg") for name in sorted(drawn)]
    return [os.path.join(run_dir, name) for name in ["report.html", "report.md", "report.json"] + charted]


def draw_charts(figures, history):
    """Return {name: {"svg", "inline", "title", "description"}}; what cannot be but 0, was not measured or was measured once has no chart."""
    columns, drawn = history.columns, {}
    restarts = history.steps[history.first_of_start & (np.arange(len(history.steps)) > 0)]
    for key, title in (("2d", "Heat-map loss"), ("pof", "POF loss")):
        if "loss_" + key in figures["dead_terms"]:
            continue
        mean, baseline = figures["loss"]["last_mean_" + key], figures["loss"]["baseline_" + key]
        drawn["loss_" + key] = {
            "svg": charts.loss_curve(title, history.steps, columns["loss_" + key], columns["baseline_" + key], columns["lr"], restarts),
            "title": title,
            "description": "{} over steps {:,} to {:,}; at the end {}, empty answer {}.".format(
                title, figures["steps"]["first"], figures["steps"]["last"], number(mean), number(baseline)
            ),
        }
    during = figures["evaluations"]
    if during and len(during["scores"]) > 1:
        title, (steps, scores) = verdict.metric_title(during["metric"]), zip(*((entry["step"], entry["score"]) for entry in during["scores"]))
        drawn["evaluations"] = {
            "svg": charts.evaluation_curve(steps, scores, title),
            "title": "Held-out {} during training".format(title),
            "description": "Held-out {} at {:,} checkpoints: best {:.3f} after step {:,}, at the end {:.3f}.".format(
                title, len(steps), during["best"]["score"], during["best"]["step"], during["last"]["score"]
            ),
        }
    curves = {name: [np.nan if v is None else v for v in values] for name, values in figures.get("pck_curve", {}).items()}
    if curves:
        drawn["pck_curve"] = {
            "svg": charts.pck_curves(curves.pop("thresholds"), curves),
            "title": "Held-out PCK",
            "description": "Share of held-out joints within a distance; area under the curve: {}.".format(
                ", ".join("{} {}".format(name.replace("_", " "), number(area)) for name, area in sorted(figures["auc"].items()))
            ),
        }
    if curves.get("trained"):
        joints = list(figures["pck_joints"])
        trained, mean_pose = [[_or_nan(figures["pck_joints"][joint][name]["0.1"]) for joint in joints] for name in ("trained", "mean_pose")]
        drawn["pck_joints"] = {
            "svg": charts.joint_bars(joints, trained, mean_pose),
            "title": "PCK@0.1 of each joint",
            "description": "PCK at 0.1 of each joint, trained network and mean pose; the numbers are in the table of joints.",
        }
    for name, chart in drawn.items():
        chart["inline"] = charts.inline(chart["svg"], name, chart["description"])
    return drawn


def encode_pictures(shown, skeleton):
    """Return [{"name", "data" (base64), "hits", "labelled"}]."""
    return [
        {
            "name": picture.name,
            "data": base64.b64encode(pictures.side_by_side(picture, skeleton)).decode("ascii"),
            "hits": picture.hits,
            "labelled": int(picture.valid.sum()),
        }
        for picture in shown
    ]


def settings(figures):
    """Return [(section, [(key, value, default, whether it differs)])] of the config; the default is None where the value does not differ from it."""
    changed = figures["config_changed"]
    return [
        (section, [(key, value, changed.get("{}.{}".format(section, key)), "{}.{}".format(section, key) in changed) for key, value in keys.items()])
        for section, keys in figures["config"].items()
        if isinstance(keys, dict)
    ]


def render(name, values):
    """Return a template's text; HTML escapes all that it is given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, share=share, size=size, duration=duration, cell=cell, setting=setting, metric=verdict.metric_title)
    return environment.get_template(name + ".j2").render(values)


def number(value, digits=3):
    """Return a number with so many significant digits (or all before the point), "–" for none."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 10**digits:
        return "{:,.0f}".format(value)
    return "{:#.{}g}".format(value, digits).rstrip(".")


def share(value, digits=3):
    """Return a share of 1 with fixed decimals, so that columns align."""
    return "–" if value is None else "{:.{}f}".format(value, digits)


def size(count):
    """Return bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return "{:.0f} {}".format(count, unit) if unit == "B" else "{:.1f} {}".format(count, unit)
        count /= 1000.0


def duration(seconds):
    """Return seconds as "1 h 02 min", "3 min 20 s" or "12.3 s"."""
    if seconds < 60:
        return "{:.1f} s".format(seconds)
    minutes, rest = divmod(int(round(seconds)), 60)
    if minutes < 60:
        return "{} min {:02d} s".format(minutes, rest)
    return "{} h {:02d} min".format(minutes // 60, minutes % 60)


def cell(text):
    """Return text for a cell of a Markdown table."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def setting(value):
    """Return a config value as it would be given to --set."""
    if isinstance(value, dict):
        return ", ".join("{}: {}".format(k, setting(v)) for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(setting(v) for v in value) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "{:g}".format(value)
    return str(value) if value != "" else "none"


def _or_nan(value):
    return np.nan if value is None else value
