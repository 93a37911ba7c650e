"""The step contract, once: what every `python -m tasks.X` takes, prints, writes and answers.

A step takes `--config`, `--set`, `--run-dir`; does nothing when its inputs and outputs are as its last success left them; writes
`<run-dir>/steps/<name>.json` atomically; and exits with 0 (success), 2 (a user's mistake, one sentence), 3 (stopped by a signal after saving) or 1.
"""

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from mtc import config as configuration
from mtc import files
from mtc import lock as locks
from mtc.errors import EXIT_CODES, RunFailed, Stopped, UserError, status_of
from mtc.sections import Config
from mtc.storage import TransientError

log = logging.getLogger("mtc")

SUCCESS, FAILED, USER_ERROR, STOPPED = (EXIT_CODES[status] for status in ("success", "failed", "user_error", "stopped"))

_asked_to_stop: List[str] = []
"""Names of the signals that have asked the step of this process to stop."""

_running: List[Any] = []
"""Of the step that runs: (Context, Step, when it started)."""

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a disk fails with through no mistake in the input: another try may succeed."""


class Context(NamedTuple):
    """What a step works with."""

    config: Config
    run_dir: str
    arguments: argparse.Namespace
    lock: Optional[locks.Lock] = None
    """The lock that the step holds."""


class Result(NamedTuple):
    """What a step leaves behind."""

    outputs: List[str]
    """Files that must still be there, unchanged, for the step to count as done."""
    figures: Dict[str, Any]
    """JSON-able facts about the run: counts, losses, places."""


class Step(NamedTuple):
    """One task of the DAG, one command."""

    name: str
    description: str
    inputs: Callable[[Context], Dict[str, Any]]
    """JSON-able description of all that the result depends on; the step is skipped while it is the same."""
    run: Callable[[Context], Result]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    lock: str = ""
    """Lock file in the run directory that the step holds while it runs, instead of one of its own: `RUN_LOCK` for what writes the run itself."""
    always: bool = False
    """Run even where nothing has changed: what it looks at is not all in its inputs."""
    shared: str = ""
    """Name of a second record, beside the data that other runs use too: what one of them has done under this name is done. The step itself leaves
    one where it has that name; a part of the work does not."""
    follows: bool = False
    """It works for another process of the same command, which has the run directory: no lock, nothing written but a `record` of its own."""
    record: str = ""
    """Name of the record, where it is not the step's."""


RUN_LOCK = ".lock"
RUN_LOCK_PATIENCE = 10.0
"""Seconds after which a step is refused that wants a run which somebody else works on; for a holder that is saving, see `mtc.lock`."""


def main(step, argv=None):
    """Run a step as a command and return its exit code."""
    arguments = _parse(step, argv)
    with _logging_to_stderr(), contextlib.ExitStack() as stack:
        return _run(step, arguments, stack)


def configured(step, argv=None):
    """Return (the config that a step's arguments ask for, or None where it cannot be, 0 or the exit code)."""
    arguments = _parse(step, argv)
    with _logging_to_stderr():
        try:
            return configuration.load(arguments.config, arguments.overrides), SUCCESS
        except UserError as error:
            log.error("error: %s", error)
            return None, USER_ERROR


def abandon(text, code):
    """End this process at once, with a record: for a thread that finds the main thread waiting for what will never come."""
    log.error("%s", text)
    for context, step, started in _running:
        _write_record(context, step, started, status_of(code), error=text)
    leave(code)


def leave(code):
    """End this process without the end of its libraries: TensorFlow's servers take ten seconds for it. All files are written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(step, arguments, stack):
    context, started = None, time.time()
    del _asked_to_stop[:]
    try:
        config = configuration.load(arguments.config, arguments.overrides)
        run_dir = arguments.run_dir or os.path.join(os.environ.get("MTC_RUNS", "runs"), config.name)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        if step.follows:
            if step.record:
                _make_run_dir(run_dir)
                context = Context(config, run_dir, arguments)
                _running[:] = [(context, step, started)]
            result = step.run(Context(config, run_dir, arguments))
            _write_record(context, step, started, "success", figures=result.figures)
            return SUCCESS
        _make_run_dir(run_dir)
        # Another process may be at the same step, saving after a signal: config.json and the record are its own until it has left.
        held = stack.enter_context(_lock(step, run_dir))
        _claim_run_dir(run_dir, config)
        context = Context(config, run_dir, arguments, held)  # from here on there is a place for a record
        _running[:] = [(context, step, started)]
        inputs = step.inputs(context)
        if not (arguments.force or step.always):
            for path in [_record_path(run_dir, step.name)] + [_beside_data(context, step.shared)] * bool(step.shared):
                previous = _read(path)
                if _is_done(previous, inputs):
                    reason = "inputs and outputs are as the last run left them ({})".format(path)
                    _leave_as_it_is(context, step, started, reason, {key: value for key, value in previous.items() if key != "unchanged"})
                    return SUCCESS
        result = step.run(context)
        outputs = [_describe(path) for path in result.outputs]
        done = {"inputs": inputs, "outputs": outputs, "figures": result.figures}
        _write_record(context, step, started, "success", **done)
        if step.shared == step.name:
            with contextlib.suppress(OSError):  # read-only data: each run finds out for itself
                files.write_json(_beside_data(context, step.name), _record(step, started, "success", **done))
        return SUCCESS
    except UserError as error:
        log.error("error: %s", error)
        _write_record(context, step, started, "user_error", error=str(error))
        return USER_ERROR
    except Stopped as stop:
        log.warning("%s: stopped: %s", step.name, stop)
        _write_record(context, step, started, "stopped", error=str(stop), requested_by=stop.requested_by)
        return STOPPED
    except RunFailed as error:
        log.error("%s failed: %s", step.name, error)
        _write_record(context, step, started, "failed", error=str(error))
        return FAILED
    except TransientError as error:
        log.error("%s failed, another try may succeed: %s", step.name, error)
        _write_record(context, step, started, "failed", error=str(error))
        return FAILED
    except Exception as error:
        if _asked_to_stop:  # raised in the middle of foreign code, which made another error of it
            log.warning("%s: stopped: %s", step.name, _asked_to_stop[0])
            _write_record(context, step, started, "stopped", error=_asked_to_stop[0])
            return STOPPED
        if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            reason = "{}{}".format("{}: ".format(error.filename) if error.filename else "", error.strerror)
            log.error("%s failed: %s; what was saved before is still there", step.name, reason)
        else:
            reason = "{}: {}".format(type(error).__name__, error)
            log.exception("%s failed", step.name)
        _write_record(context, step, started, "failed", error=reason)
        return FAILED


def read_shared(context, name):
    """Return the record that a step wrote last beside the data, or None."""
    return _read(_beside_data(context, name))


def read_record(run_dir, name):
    """Return the record that a step wrote last, or None."""
    return _read(_record_path(run_dir, name))


def sha256(path, advice):
    """Return the SHA-256 of an input file. Errors: UserError with `advice` where it is missing or cannot be read."""
    try:
        return files.sha256(path)
    except FileNotFoundError:
        raise UserError("{} does not exist: {}".format(path, advice)) from None
    except OSError as error:
        raise UserError("{} cannot be read: {}; check data.root and its permissions".format(path, error.strerror or error)) from None


def _parse(step, argv):
    parser = argparse.ArgumentParser(prog="python -m tasks.{}".format(step.name.partition("_")[0]), description=step.description)
    parser.add_argument(
        "--config",
        default="coco_body",
        metavar="PRESET_OR_FILE",
        help="a preset (%s) or a YAML file; default: %%(default)s" % ", ".join(configuration.presets()),
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one key; may be repeated")
    parser.add_argument(
        "--run-dir", default="", metavar="DIR", help="where the run keeps its files; default: the config's name in $MTC_RUNS or runs/"
    )
    parser.add_argument("--force", action="store_true", help="run even where nothing has changed")
    step.arguments(parser)
    return parser.parse_args(argv)


@contextlib.contextmanager
def _logging_to_stderr():
    """Plain lines on stderr; the log lines that scripts parse are the message alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def _lock(step, run_dir):
    if step.lock == RUN_LOCK:
        path = os.path.join(run_dir, RUN_LOCK)
        return locks.exclusive(path, "python -m tasks." + step.name, RUN_LOCK_PATIENCE, keep_history=True)
    path = step.lock or os.path.join("steps", ".{}.lock".format(step.name))
    return locks.exclusive(os.path.join(run_dir, path), "python -m tasks." + step.name)


def _stop(number, frame):
    _asked_to_stop.append(signal.Signals(number).name)
    raise Stopped(_asked_to_stop[-1])


def _make_run_dir(run_dir):
    unusable = sorted(set("[]*?\\") & set(os.path.abspath(run_dir)))
    if unusable:  # TensorFlow takes a checkpoint's path for a pattern, and would not find it again
        raise UserError(
            "run directory {}: TensorFlow cannot read checkpoints below a path with {}; choose another --run-dir".format(run_dir, " ".join(unusable))
        )
    try:
        os.makedirs(os.path.join(run_dir, "steps"), exist_ok=True)
    except OSError as error:
        if error.errno in _DISK_TROUBLE:
            raise
        raise UserError("run directory {} cannot be made: {}; choose another --run-dir".format(run_dir, error.strerror or error)) from None


def _claim_run_dir(run_dir, config):
    """Keep the run's config.json; refuse a directory that holds a run of another kind."""
    path = os.path.join(run_dir, "config.json")
    try:
        old = configuration.read(path)
        if old is not None and any(os.path.exists(os.path.join(run_dir, name)) for name in ("metrics.jsonl", "checkpoints")):
            changed = configuration.difference(configuration.identity(old), configuration.identity(config))
            if changed and config.checkpoint.foreign != "accept":
                raise UserError("{} holds a run whose {}: choose another --run-dir, or set checkpoint.foreign=accept".format(run_dir, changed))
        if old is None or configuration.to_dict(old) != configuration.to_dict(config):
            files.write_json(path, configuration.to_dict(config))
    except OSError as error:
        if error.errno in _DISK_TROUBLE:
            raise
        raise UserError("run directory {} cannot be written: {}; choose another --run-dir".format(run_dir, error.strerror or error)) from None


def _is_done(previous, inputs):
    """Whether the last run succeeded on the same inputs and all that it made is still there."""
    if not previous or previous.get("status") != "success" or previous.get("inputs") != inputs:
        return False
    return all(_is_unchanged(output) for output in previous["outputs"])


def _is_unchanged(output):
    try:
        found = os.stat(output["path"])
    except OSError:
        return False
    if found.st_size != output["bytes"]:
        return False
    return found.st_mtime_ns == output["mtime_ns"] or files.sha256(output["path"]) == output["sha256"]


def _describe(path):
    found = os.stat(path)
    return {"path": os.path.abspath(path), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": files.sha256(path)}


def _beside_data(context, name):
    """Return the path of the record of a step whose work is in data.root, for all runs that use it."""
    return os.path.join(context.config.data.root, ".steps", name + ".json")


def _record_path(run_dir, name):
    return os.path.join(run_dir, "steps", name + ".json")


def _read(path):
    try:
        record = files.read_json(path)
    except (ValueError, OSError):
        return None
    return record if isinstance(record, dict) else None


def _record(step, started, status, **more):
    record = {"v": 1, "step": step.name, "status": status, "started": round(started, 3), "seconds": round(time.time() - started, 3)}
    return dict(record, **more)


def _leave_as_it_is(context, step, started, reason, record):
    """Say that there is nothing to do, and note it in the record of what was done."""
    log.info("%s: nothing to do, %s", step.name, reason)
    _put_record(context, step, dict(record, unchanged={"time": round(started, 3), "reason": reason}))


def _write_record(context, step, started, status, **more):
    if context is not None:
        _put_record(context, step, _record(step, started, status, **more))


def _put_record(context, step, record):
    """Write the step's record; a record that cannot be written must not hide how the step ended."""
    try:
        files.write_json(_record_path(context.run_dir, step.record or step.name), record)
    except OSError as error:
        log.error("%s: the record cannot be written: %s", step.name, error)
