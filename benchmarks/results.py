"""bench.json: one value a number, the raw timings beside, each part with its date, so that parts may be measured on different days.

A part is {"date", "options", "versions", "machine", "images", "facts", "numbers": {name: value or None}, "reasons": {name: why None}, "ratios",
"timings"}; ratios and timings are lists of {"what", "median", "quartiles", "values", one a round}.
"""

import datetime
import os
import platform
import sys

from mtc import files

NUMBERS = {
    "loss_ratio": ("a", 8, "at least"),
    "input_ratio": ("b", 40, "at least"),
    "input_samples_per_s_per_core": ("b", 200, "at least"),
    "step_ratio_tf1": ("c", 1.3, "at least"),
    "step_ratio_tf2_vs_tf1_reference": ("c", 2.5, "at least"),
    "step_ratio_tf2_vs_tf1_reference_batch4": ("c", 3, "at least"),
    "non_network_fraction": ("d", 0.05, "at most"),
    "peak_memory_ratio": ("e", None, ""),
    "fraction_of_peak": ("f", 0.85, "at least"),
}
"""{name: (part, target, on which side of it)}"""


def update(path, letter, part):
    """Put a part into the document at `path`, in place of an older one, and write it atomically. Returns the document."""
    document = files.read_json(path) or {"v": 1, "parts": {}}
    part["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    document["parts"][letter] = part
    for name, (home, _, _) in NUMBERS.items():
        document[name] = document["parts"].get(home, {}).get("numbers", {}).get(name)
    files.write_json(path, document)
    return document


def machine():
    """Return what the figures of a machine depend on, and how busy it is."""
    facts = {"cores": cores(), "system": platform.platform(), "load_average": [round(load, 2) for load in os.getloadavg()]}
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            models = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
        with open("/proc/meminfo", encoding="ascii") as f:
            kilobytes = int(f.readline().split()[1])
        facts.update(cpu=models[0] if models else platform.machine(), memory_gb=round(kilobytes * 1024 / 1e9, 1))
    return facts


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
