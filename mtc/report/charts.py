"""The report's charts as SVG text: the same data gives the same bytes.

Drawn once in the light colours; `inline` turns them into CSS variables, so that a page's colour scheme reaches into the charts. Curves of any length
are thinned to what a screen can show, keeping each interval's lowest and highest value, so that no spike is lost.
"""

import io
import re

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK, MUTED, GRID = "#1c2733", "#5f6b78", "#e1e5ea"
TRAINED, FAINT, BASELINE, UNTRAINED = "#1f6fb5", "#a8cbe8", "#c0561b", "#84909c"
COLOURS = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    TRAINED: "trained",
    FAINT: "faint",
    BASELINE: "baseline",
    UNTRAINED: "untrained",
    "#ffffff": "surface",
}
"""Each colour, and the CSS variable that stands for it in a page."""

MOST_POINTS = 1500
LOG_ABOVE = 8.0
"""A logarithmic axis where the smoothed curve's largest value is more than this many times its smallest."""

_STYLE = {
    "svg.hashsalt": "mtc",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 24,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def loss_curve(title, steps, loss, baseline, lr, restarts=()):
    """Return an SVG: the loss of each step faint, its running mean, that of the predict-nothing baseline, changes of the learning rate, restarts.

    steps: (n,) integers, ascending; loss, baseline, lr: (n,) floats, NaN where unknown; restarts: steps at which training was started again.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.0, 3.0)
        window = max(len(steps) // 30, min(5, (len(steps) + 3) // 4))
        x, mean = running_mean(steps, loss, window)
        axes.plot(*thin(steps, loss), color=FAINT, linewidth=0.7, label="each step")
        axes.plot(x, mean, color=TRAINED, linewidth=1.8, label="mean of {:,} steps".format(window) if window > 1 else "loss")
        if np.isfinite(baseline).any():
            axes.plot(*running_mean(steps, baseline, window), color=BASELINE, linewidth=1.4, linestyle=(0, (5, 2)), label="empty answer")
        finite = mean[np.isfinite(mean)]
        if len(finite) and finite.min() > 0 and finite.max() > LOG_ABOVE * finite.min():
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(np.nanmin(np.where(loss > 0, loss, np.nan)), finite.min() / 10))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        changes = np.flatnonzero((lr[1:] != lr[:-1]) & np.isfinite(lr[1:]) & np.isfinite(lr[:-1]))
        for i in changes[:20]:
            axes.axvline(steps[i], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(" lr {:g}".format(lr[i + 1]), (steps[i], 0.94), xycoords=("data", "axes fraction"), color=MUTED, fontsize=8)
        if len(restarts):
            axes.plot(
                restarts,
                np.zeros(len(restarts)),
                "^",
                transform=axes.get_xaxis_transform(),
                color=MUTED,
                markersize=4,
                clip_on=False,
                label="restart",
            )
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "{:,.0f}".format(value)))
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        _legend(axes)
        return _svg(figure)


def evaluation_curve(steps, scores, metric):
    """Return an SVG: the score of each evaluation during training, the best one marked; of equals the first."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.0, 3.0)
        axes.plot(steps, scores, "o-" if len(steps) <= 60 else "-", color=TRAINED, linewidth=1.8, markersize=3.5, label="each evaluation")
        best = int(np.argmax(scores))
        axes.plot(steps[best], scores[best], "D", color=BASELINE, markersize=7, label="best: step {:,}, {:.3f}".format(steps[best], scores[best]))
        axes.set_title("Held-out {} during training".format(metric))
        axes.set_xlabel("step")
        axes.set_ylim(0, min(1.05, max(scores) * 1.15 + 0.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "{:,.0f}".format(value)))
        _legend(axes)
        return _svg(figure)


def pck_curves(thresholds, curves):
    """Return an SVG: the share of joints within each distance; curves: {"trained" | "mean_pose" | "untrained": values}."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.0, 4.6)
        for name, colour, style in (("trained", TRAINED, "-"), ("mean_pose", BASELINE, (0, (5, 2))), ("untrained", UNTRAINED, (0, (1, 1.5)))):
            if name in curves:
                axes.plot(thresholds, curves[name], color=colour, linestyle=style, linewidth=1.8, label=name.replace("_", " "))
        for threshold in (0.1, 0.2):
            axes.axvline(threshold, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_title("Held-out PCK")
        axes.set_xlabel("distance over the longer side of the person's box")
        axes.set_ylabel("share of joints within it")
        axes.set_xlim(thresholds[0], thresholds[-1])
        axes.set_ylim(0, 1)
        _legend(axes)
        return _svg(figure)


def joint_bars(joints, trained, mean_pose):
    """Return an SVG: PCK@0.1 of each joint, a bar for the trained network and a mark for the mean pose; values may be NaN."""
    with matplotlib.rc_context(dict(_STYLE, **{"axes.grid.axis": "x"})):
        figure, axes = _figure(6.0, 0.9 + 0.21 * len(joints))
        rows = np.arange(len(joints))
        axes.barh(rows, np.nan_to_num(trained), height=0.62, color=TRAINED, label="trained")
        axes.plot(mean_pose, rows, "|", color=BASELINE, markersize=9, markeredgewidth=2, label="mean pose")
        axes.set_yticks(rows)
        axes.set_yticklabels([joint.replace("_", " ") for joint in joints])
        axes.set_ylim(len(joints) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_title("PCK@0.1 of each joint")
        _legend(axes)
        return _svg(figure)


def inline(svg, name, description):
    """Return an SVG file's text as an element of a page: colours as CSS variables, ids of its own, a description for readers who do not see it."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.S)
    body = re.sub(r'(\bid="|url\(#|href="#)', lambda found: found.group(1) + name + "-", body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, "var(--{})".format(variable))
    head, rest = body.split(">", 1)
    view = re.search(r'viewBox="[^"]+"', head).group(0)
    # HTML's parser gives svg its namespaces itself; without a size the element takes its container's width
    return '<svg {} role="img" aria-label="{}">{}'.format(view, description, rest)


def thin(x, y, most=MOST_POINTS):
    """Return x, y with at most `most` points: of each interval the lowest and the highest, in order."""
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) <= most:
        return x, y
    picked = set()
    for part in np.array_split(np.arange(len(x)), most // 2):
        picked.update((part[y[part].argmin()], part[y[part].argmax()]))
    order = np.array(sorted(picked))
    return x[order], y[order]


def running_mean(x, y, window, most=MOST_POINTS // 2):
    """Return x and the mean of `window` values around it (fewer at the ends), at no more than `most` places; NaN values do not count."""
    known = np.isfinite(y)
    total = np.concatenate([[0], np.cumsum(np.where(known, y, 0))])
    count = np.concatenate([[0], np.cumsum(known)])
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).round().astype(int))
    low, high = np.maximum(places - (window - 1) // 2, 0), np.minimum(places + window // 2 + 1, len(x))
    n = count[high] - count[low]
    return x[places], np.where(n > 0, (total[high] - total[low]) / np.maximum(n, 1), np.nan)


def _figure(width, height):
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _legend(axes):
    """A row between title and axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncol=4, columnspacing=1.4, handlelength=1.6, borderpad=0.2, borderaxespad=0.2)


def _svg(figure):
    figure.tight_layout(pad=0.6)
    out = io.StringIO()
    figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None})
    return out.getvalue()
