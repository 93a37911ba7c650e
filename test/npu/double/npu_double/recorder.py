"""What the code under test did with npu_bridge and hccl: an ordered journal of calls, session runs, graphs and lints.

One process has one journal. An entry is a dict of plain data with `index`, `kind`, `phase` and, by kind:

* call: `api`, `args` (bound by name), `result` or `error`;
* run: `api` "session.run", `signature` and `graph` (digests), `part`, `device`, `steps`;
* lint: `rule`, `message` and what the rule adds: what the real stack swallows without a word;
* event: `api` and what it tells (options in force, sessions, broadcasts...).

With NPU_DOUBLE_JOURNAL=file every entry is appended to the file at once as a line of JSON ("{rank}" in the name is replaced by RANK_ID), so the
journal of a process that was started, or killed, can be read with `read_journal`.
"""

import atexit
import functools
import inspect
import json
import os
import threading

PHASES = ("import", "configured", "graph", "init_run", "hccl_ready", "training", "shutdown")

_lock = threading.RLock()
_entries = []
_phase = PHASES[0]
_once = set()
_resets = []
_ends = []


def journal():
    """Return all entries so far, oldest first."""
    with _lock:
        return list(_entries)


def lints(rule=None):
    """Return the lints so far, or those of one rule."""
    return [entry for entry in journal() if entry["kind"] == "lint" and rule in (None, entry["rule"])]


def last(name):
    """Return the last entry whose api or rule is `name`, or None."""
    for entry in reversed(journal()):
        if name in (entry.get("api"), entry.get("rule")):
            return entry
    return None


def reset():
    """Forget everything: journal, phase, injected overflows, world, sessions. Patches of TensorFlow stay."""
    global _phase
    with _lock:
        del _entries[:]
        _once.clear()
        _phase = PHASES[0]
        for action in _resets:
            action()


def at_reset(action):
    """Have `reset` call action(), too."""
    _resets.append(action)
    return action


def at_end(action):
    """Call action() when the interpreter ends, before the journal does."""
    _ends.append(action)
    return action


def enter(phase):
    """Go on to a phase; there is no way back to an earlier one but `reset`."""
    global _phase
    with _lock:
        if PHASES.index(phase) > PHASES.index(_phase):
            _phase = phase


def phase():
    """Return the phase that the program is in."""
    return _phase


def note(kind, **facts):
    """Add an entry and return it."""
    with _lock:
        entry = {"index": len(_entries), "kind": kind, "phase": _phase}
        entry.update((name, plain(value)) for name, value in facts.items())
        _entries.append(entry)
        path = os.environ.get("NPU_DOUBLE_JOURNAL")
        if path:
            with open(path.replace("{rank}", os.environ.get("RANK_ID", "0")), "a", encoding="utf-8") as f:
                f.write(json.dumps(dict(entry, pid=os.getpid())) + "\n")
        return entry


def lint(rule, message, once=None, **facts):
    """Report what the real stack would accept in silence. once: key by which it is reported a single time."""
    if once is not None:
        with _lock:
            if (rule, once) in _once:
                return
            _once.add((rule, once))
    note("lint", rule=rule, message=message, **facts)


def recorded(name, phase=None):
    """Decorate a function of the vendor's API: each call becomes an entry with its bound arguments and its result or exception."""

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)  # a wrong call fails here as it does there: TypeError
            bound.apply_defaults()
            if phase is not None:
                enter(phase)
            # `self` of a constructor is not made yet; "the object" says enough.
            facts = {key: plain(value) for key, value in bound.arguments.items() if key != "self"}
            entry = note("call", api=name, args=facts)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                _amend(entry, error="{}: {}".format(type(error).__name__, error))
                raise
            _amend(entry, result=result)
            return result

        return wrapper

    return decorate


def _amend(entry, **facts):
    """Add to an entry that was made before its outcome was known. A file gets a second line with the same index, which `read_journal` merges."""
    facts = {name: plain(value) for name, value in facts.items()}
    with _lock:
        entry.update(facts)
        path = os.environ.get("NPU_DOUBLE_JOURNAL")
        if path:
            with open(path.replace("{rank}", os.environ.get("RANK_ID", "0")), "a", encoding="utf-8") as f:
                f.write(json.dumps(dict(facts, index=entry["index"], kind="amend", pid=os.getpid())) + "\n")


def read_journal(path, pid=None):
    """Return the entries of a file that NPU_DOUBLE_JOURNAL named; of one process, if several wrote to it (default: that which wrote first)."""
    entries = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            if not line.endswith("\n"):
                break  # its process was killed while writing
            entry = json.loads(line)
            pid = pid or entry["pid"]
            if entry.pop("pid") != pid:
                continue
            if entry["kind"] == "amend":
                del entry["kind"]
                entries[entry.pop("index")].update(entry)
            else:
                entries[entry["index"]] = entry
    return [entries[index] for index in sorted(entries)]


def plain(value, depth=0):
    """Return a value as JSON can hold it: tensors and operations by name, dtype and shape, other objects by their class."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if depth > 6:
        return repr(type(value))
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item, depth + 1) for item in items]
    if hasattr(value, "tolist") and not callable(getattr(value, "op", None)) and not hasattr(value, "op"):
        return value.tolist()
    if hasattr(value, "op") and hasattr(value, "dtype") and hasattr(value, "shape"):
        known = value.shape.as_list() if getattr(value.shape, "rank", getattr(value.shape, "ndims", None)) is not None else None
        return {"tensor": value.name, "dtype": value.dtype.name.replace("_ref", ""), "shape": known}
    if hasattr(value, "node_def") and hasattr(value, "type"):
        return {"op": value.name, "type": value.type}
    if isinstance(value, type) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return "<{}>".format(type(value).__name__)


@atexit.register
def _finish():
    for action in _ends:
        action()
