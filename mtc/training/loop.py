"""The training run: one linear function from samples to the last uploaded checkpoint.

Crash safety: a checkpoint is a directory that is whole or absent (`mtc.training.checkpoints`); sample n of the run follows from (seed, n)
alone (`mtc.data.pipeline`), and step s uses samples (s - start - 1) * batch to (s - start) * batch - 1, so weights, Adam's slots and the
step are all that a run needs to go on; metrics.jsonl gets a line a step, and those of a checkpoint's steps before the checkpoint.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import platform
import signal
import time
import uuid

import numpy as np
import tensorflow.compat.v1 as tf

import mtc
from mtc import config as configuration
from mtc import devices, files, lock, snapshot, storage
from mtc.data import pipeline, readers
from mtc.errors import Stopped, UserError
from mtc.fetch import pretrained
from mtc.nets import cpm
from mtc.skeleton import SKELETONS
from mtc.storage import uploader as uploads
from mtc.training import checkpoints, optimizer
from mtc.training import graph as graphs
from mtc.training.journal import Journal, log_to_file
from mtc.training.steps import Steps

log = logging.getLogger("mtc.training")

TELL_SECONDS = 2.0
"""Losses are fetched from the device at least so often, in blocks of several steps where steps are quick."""

UPLOAD_GRACE = 5.0
"""Seconds that uploads get when a run is stopped; what is not there by then, the next run of the directory uploads."""


def train(config, run_dir):
    """Train as a `mtc.sections.Config` says, in `run_dir`, from its newest good checkpoint if there is one.

    Returns {"step", "checkpoint", "loss", "resumed", "uploaded"}. Errors: UserError for what a person can mend; `mtc.errors.Stopped` when
    SIGTERM or SIGINT asked for the end and a checkpoint has been saved; RuntimeError for a loss that is not finite, and for checkpoints
    that could not be uploaded.
    """
    skeleton = SKELETONS[config.model.kind]
    last = config.train.steps
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.exclusive(os.path.join(run_dir, ".lock"), "trainer"))
        log_file = stack.enter_context(log_to_file(run_dir))

        # ---- data, device, graph
        samples = readers.training(config)
        for source, found in samples.items():
            log.info("loading dataset %s of size %d", source, len(found))
        kind, device, session_config = devices.select(config.train.device, config.train.threads, config.train.compile)
        peak = devices.peak.measure(kind, session_config)
        log.info("TensorFlow %s on %s%s", tf.__version__, device, ", {:.0f} GFLOP/s in matrix products".format(peak / 1e9) if peak else "")
        training = graphs.build(config, skeleton, kind)
        dead = graphs.dead_terms(config, skeleton)
        for term in dead:
            log.warning("%s is 0 by construction: no sample of this configuration can train it (compat.ignore_paf_2d with 2D labels only)", term)
        session = stack.enter_context(tf.Session(graph=training.graph, config=session_config))

        # ---- where to start: 1. the run's own newest good checkpoint, 2. a snapshot, 3. initial weights
        resumed = checkpoints.newest_good(run_dir)
        loaded = None
        if resumed:
            training.saver.restore(session, checkpoints.bundle_prefix(resumed))
            step = checkpoints.state(resumed)["step"]
            log.info("resuming after step %d from %s", step, resumed)
            if config.snapshot.uri not in ("auto", "none"):
                log.info("snapshot.uri=%s is not read again: the run goes on from its own checkpoint", config.snapshot.uri)
        else:
            step = config.train.start_step
            training.set_variables(session, graphs.initial_values(training, config))
            loaded = pretrained.locate(config.snapshot)
            if loaded:
                options = {"discard": config.snapshot.discard, "rename": config.snapshot.rename, "adam": config.snapshot.adam}
                training.set_variables(session, snapshot.read(loaded, training.variable_shapes(), **options))
            else:
                log.info("no snapshot (snapshot.uri=%s): training starts from initial weights", config.snapshot.uri)
                if step:
                    log.warning("train.start_step=%d belongs to a snapshot: initial weights get the learning rate of step %d", step, step + 1)

        # ---- storage and journal
        uid = _run_uid(run_dir)
        prefix = os.path.basename(os.path.abspath(run_dir))
        store = storage.open_storage(config.storage.uri, config.storage.endpoint, config.storage.region)
        uploads.claim_prefix(store, prefix, uid)
        flop = cpm.training_flop(training.layers, config.model.crop, pof_is_dead=bool(dead))
        journal = stack.enter_context(Journal(run_dir, log_file, step + 1, last, config.train.log_every, config.train.batch_size, flop, peak))
        facts = {"step": step, "uid": uid, "resumed": bool(resumed), "versions": versions()}
        facts["device"] = {"kind": kind, "name": device, "flop_per_second": peak}
        shapes = training.variable_shapes()
        parameters = int(sum(np.prod(shapes[name]) for name, _ in cpm.variables(training.layers)))
        journal.record("start", snapshot=loaded and {"prefix": loaded}, parameters=parameters, dead_terms=dead, flop_per_image=flop, **facts)
        on_event = functools.partial(_record_upload, journal)
        uploader = uploads.Uploader(store, prefix, on_event=on_event, problem=checkpoints.problem)
        stack.callback(uploader.close)
        for directory in reversed(checkpoints.listed(run_dir)):  # what an earlier attempt could not send any more
            uploader.submit(directory)

        def tell():
            """Journal the steps that are not yet."""
            nonlocal loss, told
            for made in steps.done():
                if not math.isfinite(made.losses.total):
                    journal.record("end", step=made.number, status="failed")
                    raise RuntimeError(_not_finite(made, directory))
                journal.step(made)
                loss = made.losses.total
            told = time.monotonic()

        def save():
            started = time.time()
            tell()  # before the checkpoint, so that all its steps are in the journal
            if not session.run(training.finite):
                raise RuntimeError("the weights are not finite after step {}; the last good checkpoint is {}".format(step, directory or "none"))
            saved = checkpoints.save(
                run_dir,
                step,
                lambda path: training.saver.save(session, path, write_meta_graph=False, write_state=False),
                {"uid": uid, "config": configuration.identity(config), "samples": (step - config.train.start_step) * config.train.batch_size},
            )
            size = sum(os.path.getsize(os.path.join(saved, name)) for name in os.listdir(saved))
            journal.record("checkpoint", step=step, path=os.path.abspath(saved), bytes=size, seconds=round(time.time() - started, 3))
            log.info("Saved a snapshot: %s", saved)
            uploader.submit(saved)
            return saved

        # ---- the loop
        stopping = stack.enter_context(_signals())
        loss, directory, told = None, resumed, time.monotonic()
        first = step
        first_sample = (first - config.train.start_step) * config.train.batch_size
        batches = stack.enter_context(pipeline.Pipeline(samples, config, skeleton, first=first_sample))
        steps = Steps(session, training, batches, last)
        if step < last:
            log.info("Starting to train ...")
        while step < last and not stopping:
            rate = optimizer.learning_rate(step + 1, config.train.lr, config.train.lr_steps, config.compat.lr_boundary == "legacy")
            try:
                steps.run(step + 1, rate)
            except UserError:  # a file that cannot be read: the steps until here are not lost by it
                directory = save() if step > first else directory
                _finish_uploads(uploader, stopping, patience=UPLOAD_GRACE)
                journal.record("end", step=step, status="failed")
                raise
            except Exception:
                with contextlib.suppress(Exception):  # the device may be gone; the first error is the one to tell
                    tell()
                raise
            step += 1
            if step == last or (step - config.train.start_step) % config.train.snapshot_every == 0:
                directory = save()
            elif steps.full() or step % config.train.log_every == 0 or time.monotonic() - told > TELL_SECONDS:
                tell()

        # ---- the end: nothing unsaved, nothing pending
        if stopping and step < last:
            directory = save() if step > first else directory
        elif not _finish_uploads(uploader, stopping):
            journal.record("end", step=step, status="success")
            log.info("Training finished: step %d, %s", step, directory)
            return {
                "step": step,
                "checkpoint": os.path.abspath(directory),
                "loss": loss,
                "resumed": bool(resumed),
                "uploaded": store.url("{}/checkpoints/{}".format(prefix, os.path.basename(directory))),
            }
        _finish_uploads(uploader, [], patience=UPLOAD_GRACE)
        journal.record("end", step=step, status="stopped")
        raise Stopped("{} at step {}; {}".format(stopping[0], step, "saved " + directory if directory else "no step was made"))


def _run_uid(run_dir):
    """Return the run's unique id, made by its first start: names repeat, and two runs must not share a place in the storage."""
    path = os.path.join(run_dir, "run.json")
    try:
        if files.read_json(path) is None:
            files.write_json(path, {"v": 1, "uid": uuid.uuid4().hex})
        return files.read_json(path)["uid"]
    except (ValueError, KeyError, TypeError):
        raise UserError("{} is damaged: restore it, or start anew with another --run-dir".format(path)) from None


def versions():
    """Return the versions that a run's numbers depend on."""
    found = {"python": platform.python_version(), "mtc": mtc.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    found["opencv"] = importlib.import_module("cv2").__version__
    return found


@contextlib.contextmanager
def _signals():
    """Yield a list that SIGTERM and SIGINT append their names to, so that the loop ends after the step under way."""
    names = []
    old = {number: signal.signal(number, lambda n, frame: names.append(signal.Signals(n).name)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield names
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _record_upload(journal, event, **facts):
    if event == "uploaded":
        journal.record("upload", step=facts["step"], uri=facts["uri"], seconds=facts["seconds"])
    elif event == "failed":
        journal.record("upload_failed", checkpoint=facts["checkpoint"], reason=facts["reason"])


def _finish_uploads(uploader, stopping, patience=math.inf):
    """Wait for the uploads until a signal comes, at most `patience` seconds. Returns whether some are left to the next run of this directory.

    Errors: RuntimeError for those that failed for good, unless there was little patience anyway.
    """
    if uploader.pending():
        log.info("waiting for %d uploads", uploader.pending())
    give_up = time.monotonic() + patience
    while uploader.pending() and not stopping and time.monotonic() < give_up:
        uploader.wait(0.5)
    failed = uploader.wait(0)
    if failed and patience == math.inf and not stopping:
        raise RuntimeError(
            "checkpoints {} could not be uploaded; they are safe in the run directory: run again to upload them".format(", ".join(failed))
        )
    return bool(uploader.pending())


def _not_finite(made, directory):
    text = (
        "the loss is {} at step {} (learning rate {:g}, samples {}); the last good checkpoint is {}; "
        "a lower train.lr may help, and if that checkpoint leads here again, delete it"
    )
    return text.format(made.losses.total, made.number, made.rate, ", ".join(made.names), directory or "none")
