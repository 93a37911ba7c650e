"""What values of the NPU's options are in themselves: paths, lists of operators, lists of steps, JSON in a text.

Forms are those that the manual of CANN's TF Adapter gives (session_config/accuracy_tuning.md, accuracy_comparison.md, Profiling.md). Each check
returns what is wrong, or "".
"""

import json
import os
import re

_MOST_DUMPED = 100


def path(value, kind):
    """Check a path to a "file", a "folder" or a "writable folder"."""
    if not (os.path.isfile(value) if kind == "file" else os.path.isdir(value)):
        return "there is no {} '{}'".format(kind.split()[-1], value)
    if kind == "writable folder":
        return "" if os.access(value, os.R_OK | os.W_OK | os.X_OK) else "'{}' cannot be written by this user".format(value)
    return "" if os.access(value, os.R_OK) else "'{}' cannot be read by this user".format(value)


def mixlist(value):
    """Check the file of modify_mixlist."""
    try:
        with open(value, encoding="utf-8") as f:
            document = json.load(f)
    except (OSError, ValueError) as error:
        return "{} is not JSON (which has no comments): {}".format(value, error)
    for changes in document.values() if isinstance(document, dict) else [None]:
        if not isinstance(changes, dict) or not all(_are_names(names) for names in changes.values()):
            return '{}: expected {{"black-list": {{"to-add": ["ReduceSumD"], "to-remove": []}}, "white-list": {{…}}}}'.format(value)
    black, white = (set(document.get(name, {}).get("to-add", ())) for name in ("black-list", "white-list"))
    return "{} adds {} to both lists".format(value, ", ".join(sorted(black & white))) if black & white else ""


def strange_lists(value):
    """Return a sentence for each name of a list or a change, in a checked file of modify_mixlist, that is not in the manual."""
    with open(value, encoding="utf-8") as f:
        document = json.load(f)
    names = [name for name in document if name not in ("black-list", "white-list")]
    names += ["{}.{}".format(name, change) for name in document for change in document[name] if change not in ("to-add", "to-remove")]
    known = "black-list and white-list with to-add and to-remove"
    return ["modify_mixlist: '{}' in {} is not known to do anything; known: {}".format(name, value, known) for name in names]


def dump_step(value):
    """Check the steps of a dump: "0|5|10-20"."""
    parts = value.split("|")
    if len(parts) > _MOST_DUMPED:
        return "{} steps and ranges are more than {}".format(len(parts), _MOST_DUMPED)
    for part in parts:
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if not found:
            return "'{}' in '{}' is neither a step nor a range of steps: expected something like 0|5|10-20".format(part, value)
        if found.group(2) and int(found.group(1)) >= int(found.group(2)):
            return "the range '{}' does not ascend".format(part)
    return ""


def profiling_options(value):
    """Check the JSON text of profiling_options."""
    try:
        document = json.loads(value)
    except ValueError as error:
        return "not JSON: {}".format(error)
    return "" if isinstance(document, dict) else 'expected JSON like {"output": "/tmp/profile", "training_trace": "on"}'


FORMS = {"modify_mixlist": mixlist, "dump_step": dump_step, "profiling_options": profiling_options}
"""Checks of keys whose values have a form of their own."""


def _are_names(value):
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
