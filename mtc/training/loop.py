"""The training run: one linear function from samples to the last uploaded checkpoint.

Crash safety: a checkpoint is a directory that is whole or absent (`mtc.training.checkpoints`), written from a copy on the host while the next steps
run (`mtc.training.writer`); it holds the variables and all else that decides how the run goes on (`mtc.training.state`). Sample n of the run follows
from (seed, n) alone (`mtc.data.pipeline`), and n is part of the state, so a run that goes on is the run that was not interrupted, bit for bit.
metrics.jsonl gets a line a step, and those of a checkpoint's steps before the checkpoint. Nobody else writes here meanwhile: the run directory is
locked (`mtc.lock`), and the place in the storage is leased (`mtc.storage.lease`).
"""

import contextlib
import functools
import logging
import math
import os
import threading
import time
import uuid

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import config as configuration
from mtc import devices, files, snapshot, storage
from mtc import lock as locks
from mtc.data import bad_samples, pipeline, readers
from mtc.errors import RunFailed, Stopped, TakenOver, UserError
from mtc.evaluation.during_training import Examiner
from mtc.fetch import pretrained
from mtc.nets import cpm
from mtc.skeleton import SKELETONS
from mtc.storage import backoff, retention
from mtc.storage import lease as leases
from mtc.storage import uploader as uploads
from mtc.training import bundle, checkpoints, dumps, faults, loss_scale, optimizer, previews, profiling, remote, signals
from mtc.training import control as controls
from mtc.training import graph as graphs
from mtc.training import state as states
from mtc.training.journal import Journal, log_to_file
from mtc.training.ranks import gathering
from mtc.training.steps import Steps
from mtc.training.versions import versions
from mtc.training.writer import CheckpointWriter

log = logging.getLogger("mtc.training")

TELL_SECONDS = 2.0
"""Losses are fetched from the device at least so often, in blocks of several steps where steps are quick."""

UPLOAD_GRACE = 5.0
"""Seconds that uploads get when a run is stopped; what is not there by then, the next run of the directory uploads."""

START_PATIENCE = 60.0
"""Seconds to wait, at the start, for a storage that is away."""


def train(config, run_dir, lock, take_over=False, draw=None, world=None, abandon=None):
    """Train as a `mtc.sections.Config` says, in `run_dir`, from its newest good checkpoint if there is one, here or in the storage.

    lock: the `mtc.lock.Lock` of the run directory, held; take_over: replace a trainer on another machine whose lease has run out; draw: what
    `mtc.training.previews` draws with, where pictures are wanted; world: the `mtc.training.ranks.world.World` where this process leads several;
    abandon(text, code): ends the process at once, whatever it waits for.
    Returns {"step", "checkpoint", "loss", "resumed", "uploaded", "early_stop", "best", "skipped", "overflows", "bad_samples", "seconds"}. Errors:
    UserError for what a person can mend; `mtc.errors.Stopped` when SIGTERM or SIGINT asked for the end and a checkpoint has been saved; RunFailed for
    a loss or gradient that is not finite, a checkpoint that cannot be written, and checkpoints that could not be uploaded; TakenOver where another
    trainer has taken the run.
    """
    skeleton = SKELETONS[config.model.kind]
    batch_size = config.train.batch_size
    if world:
        world, config = gathering.checked(world, config), gathering.with_a_share_of_the_cores(config)
    with contextlib.ExitStack() as stack:
        log_file = stack.enter_context(log_to_file(run_dir))

        # ---- data, device, graph
        samples = readers.training(config)
        for source, found in samples.items():
            log.info("loading dataset %s of size %d", source, len(found))
        device = devices.select(config)
        if device.kind == "npu":
            devices.npu.put(device.session_config, _npu_options(config, run_dir))
        elif world and dumps.wanted(config):
            raise UserError("dump.steps and dump.overflow look at one process: start tasks.train without tasks.launch, or set neither")
        peak = devices.peak.measure(device.kind, device.session_config)
        log.info("TensorFlow %s on %s%s", tf.__version__, device.name, ", {:.0f} GFLOP/s in matrix products".format(peak / 1e9) if peak else "")
        team = stack.enter_context(gathering.lead(world, config, device, samples, versions(), abandon)) if world else None
        training = graphs.build(config, skeleton, device, team and team.collectives)
        session = stack.enter_context((team.collectives if team else device).session(training.graph))
        dead = graphs.dead_terms(config, skeleton)
        for term in dead:
            log.warning("%s is 0 by construction: no sample of this configuration can train it (compat.ignore_paf_2d with 2D labels only)", term)
        examiner = Examiner(config, skeleton) if config.evaluation.samples else None
        drawn = stack.enter_context(previews.Previews(config, skeleton, draw)) if config.previews.every and draw else None

        # ---- the run's place in the storage: whose it is, and that nobody else trains there
        prefix = os.path.basename(os.path.abspath(run_dir))
        store = storage.open_storage(config.storage.uri, config.storage.endpoint, config.storage.region)

        def patiently(action):
            return backoff.patiently(action, store.url(""), START_PATIENCE)

        uid, is_taken_up = _run_uid(run_dir, config, patiently(lambda: uploads.run_of(store, prefix)), store.url(prefix))
        patiently(lambda: uploads.claim_prefix(store, prefix, uid))
        lease = patiently(functools.partial(_lease, store, prefix, uid, config, lock, take_over))
        stack.callback(lease.close)

        # ---- where to start: 1. the run's own newest good checkpoint, here or in the storage, 2. a snapshot, 3. initial weights
        resumed = checkpoints.newest_good(run_dir)
        if config.storage.resume:
            above = checkpoints.step_of(resumed) if resumed else -1
            resumed = patiently(lambda: remote.newest_good(store, prefix, run_dir, above)) or resumed
            patiently(lambda: remote.fetch_journal(store, prefix, run_dir))
        loaded = None
        if resumed:
            checkpoints.check_is_of(resumed, uid, config, accept=config.checkpoint.foreign == "accept")
            values = _restored(resumed, training, config)
            state = states.from_json(checkpoints.state(resumed))
            log.info("resuming after step %d from %s", state.step, resumed)
            before = checkpoints.state(resumed).get("precision", "fp32")
            if before != config.train.precision:
                log.info("train.precision was %s until step %d and is %s from there", before, state.step, config.train.precision)
            if config.snapshot.uri not in ("auto", "none"):
                log.info("snapshot.uri=%s is not read again: the run goes on from its own checkpoint", config.snapshot.uri)
        else:
            state = states.RunState(step=config.train.start_step, samples=0)
            values = graphs.initial_values(training, config)
            loaded = pretrained.locate(config.snapshot)
            if loaded:
                rules = {"discard": config.snapshot.discard, "rename": config.snapshot.rename, "adam": config.snapshot.adam}
                values.update(graphs.with_averages(snapshot.read(loaded, training.variable_shapes(), **rules), training))
            else:
                log.info("no snapshot (snapshot.uri=%s): training starts from initial weights", config.snapshot.uri)
                if state.step:
                    text = "train.start_step=%d belongs to a snapshot: initial weights get the learning rate of step %d"
                    log.warning(text, state.step, state.step + 1)
        training.set_variables(session, values)
        if is_taken_up:  # not before it is known that the run there goes on here
            _write_uid(run_dir, uid)

        # ---- journal, uploads, checkpoints
        control = controls.Control(run_dir, state.control, config.train.steps)
        last = min(control.last, state.step + config.train.only) if config.train.only else control.last
        if team:
            team.tell("begin", sample=state.samples, skipped=state.skipped, last=last)
            session.run(training.share)
            peak = peak and peak * team.size
        flop = cpm.training_flop(training.layers, config.model.crop, pof_is_dead=bool(dead))
        journal = stack.enter_context(Journal(run_dir, log_file, state.step + 1, last, config.train.log_every, batch_size, flop, peak))
        facts = {"step": state.step, "uid": uid, "resumed": bool(resumed), "versions": versions(), "fence": lock.holder.fence, "lease": lease.fence}
        facts["ranks"] = team.size if team else 1
        facts["device"] = {"kind": device.kind, "name": device.name, "flop_per_second": peak}
        facts["precision"] = config.train.precision
        shapes = training.variable_shapes()
        parameters = int(sum(np.prod(shapes[name]) for name, _ in cpm.variables(training.layers)))
        journal.record("start", snapshot=loaded and {"prefix": loaded}, parameters=parameters, dead_terms=dead, flop_per_image=flop, **facts)

        pruning = threading.Lock()

        def prune(newest):
            """Apply the run directory's retention to what is not newer than `newest`; a damaged newer checkpoint does not push out a good one."""
            with pruning:
                here = {checkpoints.step_of(directory): directory for directory in checkpoints.listed(run_dir)}
                keep = uploader.needed() | set(state.best(config.checkpoint.keep_best))
                rule = config.checkpoint
                steps = [step for step in here if step <= newest]
                for step in retention.superfluous(steps, rule.keep_last, rule.keep_every, config.train.start_step, keep):
                    checkpoints.remove(here[step])

        def on_upload(event, **facts):
            _record_upload(journal, event, **facts)
            if event == "uploaded" and writer.saved:
                prune(checkpoints.step_of(writer.saved))

        def on_saved(directory, step, seconds, stalled, copied):
            size = sum(os.path.getsize(os.path.join(directory, name)) for name in os.listdir(directory))
            figures = {"bytes": size, "seconds": round(seconds, 3), "stalled": round(stalled, 3), "copied": round(copied, 3)}
            journal.record("checkpoint", step=step, path=os.path.abspath(directory), **figures)
            log.info("Saved a snapshot: %s", directory)
            uploader.submit(directory)
            prune(step)

        writer = CheckpointWriter(run_dir, on_saved, guard=lock.check, before=journal.sync)
        writer.saved = resumed
        uploader = uploads.Uploader(
            store,
            prefix,
            os.path.join(run_dir, "uploads.json"),
            lease=lease,
            present=list(reversed(checkpoints.listed(run_dir))),  # what an earlier attempt could not send any more
            keep=uploads.retained_by(config.storage, config.train.start_step, lambda: state.best(config.checkpoint.keep_best)),
            extras={"metrics.jsonl": os.path.join(run_dir, "metrics.jsonl")},
            on_event=on_upload,
            problem=checkpoints.problem,
        )
        uploader.start()
        stack.callback(uploader.close)
        stack.enter_context(writer)

        # ---- the loop
        stopping = stack.enter_context(signals.caught(lambda name: lock.leave()))
        clock, told, loss, fault, stopped_by = states.Clock(state), time.monotonic(), None, None, None
        sizes = {source: len(found) for source, found in samples.items()}
        batches = stack.enter_context(pipeline.Pipeline(samples, config, skeleton, first=state.samples, ranks=team.size if team else 1))
        known = [entry for entry in state.bad_samples if not batches.can_use(*entry[:2])]  # others were repaired
        bad = bad_samples.BadSamples(sizes, config.data.max_bad_fraction, known=known)
        bad.check()
        profile = dumped = None
        if config.train.profile and device.kind != "npu":
            profile = stack.enter_context(profiling.Profile(session, training, run_dir, profiling.chosen(config), state.step, last))
        if dumps.wanted(config) and device.kind != "npu":
            dumped = dumps.Dumps(session, training, config, run_dir, state.step)
        steps = Steps(session, training, batches, last, skipped=state.skipped, device=device, team=team, profile=profile, dumps=dumped)
        stack.callback(steps.close)
        first = step = state.step
        if (step - config.train.start_step) % steps.per_run:
            text = "npu.iterations_per_loop={}: the run stands at step {}, in the middle of that; set it to 1"
            raise UserError(text.format(steps.per_run, step))
        if step < last and not state.stopped_early:
            if device.before_first_step:
                log.info("%s", device.before_first_step)
            log.info("Starting to train ...")

        def tell():
            """Journal the steps that are not yet, and let the state follow."""
            nonlocal loss, told, fault
            refusal = None
            for made in steps.done():
                if made.refused:
                    fault = fault or made
                    continue
                journal.step(made)
                state.step, state.samples = made.number, made.first_sample + batch_size
                state.skipped += made.skipped
                state.overflows += made.overflowed
                loss = made.losses.total
                if made.skipped:
                    log.warning("step %d is skipped: %s", made.number, _not_finite(made))
                    journal.record(
                        "skipped", step=made.number, names=made.names, path=faults.save_batch(run_dir, made, batches.make(made.first_sample))
                    )
                if made.overflowed:
                    log.info("step %d changes no weight: its gradient overflowed with loss scale %g", made.number, made.loss_scale)
                    journal.record("overflow", step=made.number, scale=made.loss_scale)
                try:
                    for entry in bad.add(made.bad):
                        log.warning("sample %s of %s is replaced by the next one: %s", entry.name, entry.source, entry.reason)
                        journal.record("bad_sample", step=made.number, source=entry.source, name=entry.name, reason=entry.reason)
                except UserError as error:  # the steps that follow in this block are made already
                    refusal = refusal or error
            state.bad_samples = bad.state()
            clock.tick()
            told = time.monotonic()
            if refusal:
                raise refusal

        def answer(images):
            if team:
                team.mirror("examine")
            return session.run(training.examine[1], {training.examine[0]: images})

        def save(due=False):
            """Start to write the checkpoint of the last step, from a copy on the host. due: by the schedule, which is when accuracy is looked at."""
            tell()  # before the checkpoint, so that all its steps are in the journal
            if fault:
                return
            if due and examiner:
                score = examiner.score(answer, graphs.EXAMINED)
                best = state.judge(score, config.evaluation)
                journal.record("evaluation", step=state.step, metric=config.evaluation.metric, score=score, samples=len(examiner), best=best)
                log.info("held-out %s %.4f after step %d%s", config.evaluation.metric, score, state.step, ", the best so far" if best else "")
            writer.save(state.step, copy, facts_of_state)

        def copy():
            if team:
                team.mirror("values")
            return session.run(training.values)

        def facts_of_state():
            identity = {"uid": uid, "fence": lock.holder.fence, "config": configuration.identity(config), "precision": config.train.precision}
            return dict(state.to_json(), **identity)

        def end(status, **more):
            with contextlib.suppress(TakenOver):
                lock.check()  # the journal is somebody else's now
                _end(status, **more)

        def _end(status, **more):
            counts = {"skipped": state.skipped, "overflows": state.overflows}
            journal.record("end", step=state.step, status=status, seconds=round(state.seconds, 3), **counts, **more)

        def obey():
            """Do what was asked for on the run's control file. Returns whether somebody wants a checkpoint now."""
            nonlocal last, stopped_by
            if team and team.wishes:
                stopping.append(team.wishes[0])
            granted = control.take(step)
            for request in granted:
                journal.record("control", step=step, by=request.by, action=request.action, value=request.value)
                if request.action == controls.STOP:
                    stopped_by = request.by
                    stopping.append("stopped by {}".format(request.by or "a request"))
            last = min(last, control.last) if config.train.only else control.last
            last += (step - last) % steps.per_run
            journal.last_step = steps.last = last
            return any(request.action == controls.SAVE for request in granted)

        def rate_of(number):
            legacy = config.compat.lr_boundary == "legacy"
            return optimizer.learning_rate(number, config.train.lr, config.train.lr_steps, legacy) * control.lr_factor(number)

        if team:
            team.before_leaving = functools.partial(end, "failed")
        obey()
        while step < last and not stopping and not fault and not state.stopped_early:
            rates = [rate_of(number) for number in range(step + 1, step + 1 + steps.per_run)]
            try:
                writer.check()
                uploader.check()
                steps.run(step + 1, rates)
                step += steps.per_run
                wanted = obey()
                if drawn and (step - config.train.start_step) % config.previews.every == 0:
                    drawn.make(step, answer, graphs.EXAMINED)
                if step == last or (step - config.train.start_step) % config.train.snapshot_every == 0:
                    save(due=True)
                elif wanted:
                    save()
                elif steps.full() or step % config.train.log_every < steps.per_run or time.monotonic() - told > TELL_SECONDS:
                    tell()
            except UserError:  # files that cannot be read: the steps until here are not lost by it
                if step > first:
                    save()
                    writer.wait()
                if fault:
                    break
                _finish_uploads(uploader, stopping, patience=UPLOAD_GRACE)
                end("failed")
                raise
            except RunFailed:
                end("failed")
                raise
            except Exception:
                with contextlib.suppress(Exception):  # the device may be gone; the first error is the one to tell
                    tell()
                raise

        # ---- the end: nothing unsaved, nothing pending
        stopped = stopping and step < last and not state.stopped_early
        if stopped and step > first and not fault:
            try:
                save()
            except UserError:  # too many bad samples, as the last steps tell: told once more by the next try
                save()
        if fault:
            raise _stop_for(fault, run_dir, state, copy, batches, writer, uploader, journal, facts_of_state, end)
        if stopped:
            writer.wait()
            _finish_uploads(uploader, [], patience=UPLOAD_GRACE)
            end("stopped")
            text = "{} at step {}; {}".format(stopping[0], step, "saved " + writer.saved if writer.saved else "no step was made")
            raise Stopped(text, requested_by=stopped_by)
        try:
            writer.wait()
            complete = _finish_uploads(uploader, stopping, patience=config.storage.patience)
        except RunFailed:
            end("failed")
            raise
        if not complete and stopping:
            _finish_uploads(uploader, [], patience=UPLOAD_GRACE)
            end("stopped")
            raise Stopped("{} while uploads were waiting; saved {}".format(stopping[0], writer.saved), requested_by=stopped_by)
        if not complete:
            end("failed")
            raise RunFailed(_only_here(uploader))
        end("success", early_stop=state.stopped_early)
        log.info("Training finished: step %d, %s", state.step, writer.saved)
        if state.stopped_early:
            log.info("stopped early: %d evaluations without a better one; the best are of steps %s", state.without_gain, state.best(3))
        return {
            "step": state.step,
            "checkpoint": os.path.abspath(writer.saved),
            "loss": loss if loss is None or math.isfinite(loss) else None,  # of a step that was skipped
            "resumed": bool(resumed),
            "uploaded": store.url("{}/checkpoints/{}".format(prefix, os.path.basename(writer.saved))),
            "early_stop": state.stopped_early,
            "best": state.best(1),
            "skipped": state.skipped,
            "overflows": state.overflows,
            "bad_samples": len(state.bad_samples),
            "seconds": round(state.seconds, 3),
        }


def _npu_options(config, run_dir):
    """Return {key: value} of what an NPU's session is told to observe: a profile of all its steps, dumps. It wants the folders to be there."""
    options, traces, dumped = {}, os.path.join(run_dir, profiling.FOLDER), dumps.folder(config, run_dir)
    if config.train.profile:
        os.makedirs(traces, exist_ok=True)
        options.update(profiling.npu_profiling_options(traces))
    asked = dumps.npu_dump_options(config, dumped)
    if asked:
        os.makedirs(dumped, exist_ok=True)
    return dict(options, **asked)


def _run_uid(run_dir, config, owner, where):
    """Return (the run's unique id, whether it is that of a run in the storage which is taken up here, and run.json has yet to say so).

    Made by the run's first start: names repeat, and two runs must not share a place in the storage. A run directory without an id takes up the run
    whose place in the storage has its name; owner: that run's id, or None.
    """
    path = os.path.join(run_dir, "run.json")
    try:
        found = files.read_json(path)
        if found is not None:
            return found["uid"], False
    except (ValueError, KeyError, TypeError):
        raise UserError("{} is damaged: restore it, or start anew with another --run-dir".format(path)) from None
    if owner is None:
        return _write_uid(run_dir, uuid.uuid4().hex), False
    if not config.storage.resume:
        raise UserError("{} belongs to another run (uid {}) and storage.resume is false: choose another name or storage.uri".format(where, owner))
    log.info("%s has no run yet: going on with run %s from %s (storage.resume=false to refuse)", run_dir, owner, where)
    return owner, True


def _write_uid(run_dir, uid):
    files.write_json(os.path.join(run_dir, "run.json"), {"v": 1, "uid": uid})
    return uid


def _lease(store, prefix, uid, config, lock, take_over):
    """Return the lease on the run's place in the storage; its token is the lock's, so that the next holder of the lock knows whom it can replace."""
    gone, seconds = locks.gone_tokens(lock), config.storage.lease_seconds
    return leases.acquire(store, prefix, uid, lock.holder, seconds, gone=gone, take_over=take_over)


def _restored(directory, training, config):
    """Return {name: array} of a checkpoint. Errors: UserError where it is not of this network."""
    values, shapes = bundle.read(checkpoints.bundle_prefix(directory)), training.variable_shapes()
    scale = loss_scale.initial_values(loss_scale.of_config(config))
    if scale and not set(scale) <= set(values):
        log.info("%s has no loss scale: it starts at %g", directory, scale["loss_scale"])
        values.update(scale)
    elif not scale and snapshot.LOSS_SCALE[0] in values:
        log.info("the loss scale of %s, %g, is not used any more", directory, values[snapshot.LOSS_SCALE[0]])
        values = {name: value for name, value in values.items() if name not in snapshot.LOSS_SCALE}
    different = sorted(name for name in set(values) | set(shapes) if name not in values or name not in shapes or values[name].shape != shapes[name])
    if different:
        raise UserError(
            "checkpoint {} is not of this network: {} ({} in all); change model.* and train.ema, or choose another --run-dir".format(
                directory, ", ".join(different[:3]), len(different)
            )
        )
    return values


def _stop_for(fault, run_dir, state, copy, batches, writer, uploader, journal, facts_of_state, end):
    """Save the steps before a fault and the batch that led to it; return the error that says so."""
    path = faults.save_batch(run_dir, fault, batches.make(fault.first_sample))
    journal.record("non_finite", step=fault.number, loss=fault.losses.total, grad_norm=fault.grad_norm, names=fault.names, path=path)
    why = ""
    try:
        if writer.saved is None or checkpoints.step_of(writer.saved) < state.step:
            writer.save(state.step, copy, facts_of_state)
        writer.wait()
        _finish_uploads(uploader, [], patience=UPLOAD_GRACE)
    except RunFailed as error:
        why = "; {}".format(error)
    end("failed")
    text = (
        "step {}: {} (learning rate {:g}, samples {}; {}); the run is saved as it was before: {}{}; a lower train.lr may help, "
        "or train.skip_non_finite={} to pass over this step; if that checkpoint is spoiled already, remove it to go on from the one before"
    )
    look = "see {}".format(path) if path else "the batch could not be saved"
    names = ", ".join(fault.names)
    return RunFailed(text.format(fault.number, _not_finite(fault), fault.rate, names, look, writer.saved or "no checkpoint", why, state.skipped + 1))


def _not_finite(made):
    if not math.isfinite(made.losses.total):
        return "the loss is {}".format(made.losses.total)
    if math.isfinite(made.grad_norm):  # of a device that cuts off what overflows
        return "the gradient has overflowed, and its loss scale, {:g}, cannot fall (the loss is {:g})".format(made.loss_scale, made.losses.total)
    return "the gradient's norm is {} (the loss is {:g})".format(made.grad_norm, made.losses.total)


def _record_upload(journal, event, **facts):
    if event == "uploaded":
        journal.record("upload", step=facts["step"], uri=facts["uri"], seconds=facts["seconds"])
    elif event == "failed":
        journal.record("upload_failed", checkpoint=facts["checkpoint"], reason=facts["reason"])
    elif event == "removed":
        journal.record("upload_removed", step=facts["step"])


def _finish_uploads(uploader, stopping, patience):
    """Wait for the uploads until a signal comes, at most `patience` seconds. Returns whether all checkpoints are in the storage.

    Errors: TakenOver.
    """
    if uploader.pending():
        log.info("waiting for %d uploads", uploader.pending())
    give_up = time.monotonic() + patience
    while not uploader.wait(0.2) and not stopping and time.monotonic() < give_up:
        uploader.check()
    uploader.check()
    return not uploader.waiting() and not uploader.failed()


def _only_here(uploader):
    """Return the sentence that names the checkpoints which are not in the storage."""
    failed, names = uploader.failed(), sorted(set(uploader.failed()) | set(uploader.waiting()))
    reasons = sorted(set(failed.values())) or ["the storage could not be reached in time (storage.patience)"]
    return "{} could not be uploaded ({}) and {} only in the run directory: run again to upload {}".format(
        "checkpoint " + names[0] if len(names) == 1 else "checkpoints " + ", ".join(names),
        "; ".join(reasons),
        "is" if len(names) == 1 else "are",
        "it" if len(names) == 1 else "them",
    )
