"""What single steps compute, as files: to compare two machines, and to see where numbers stop being numbers (section `dump`).

Before a step of `dump.steps` its batch goes through the training graph once more, which gives what the step itself will compute: each layer's output,
the losses, each gradient. With `dump.overflow` that happens after a step whose loss or gradient is no number: such a step leaves the weights as they
were. The graph is that of a run without dumps, and no variable is written.

On an NPU the device's own dumps take the place of this: `npu_dump_options`.
"""

import json
import logging
import os

import numpy as np

from mtc import files, step_ranges
from mtc.errors import UserError
from mtc.training.update import MADE, OVERFLOWED, REFUSED

log = logging.getLogger("mtc.training")


def folder(config, run_dir):
    """Return where dumps go."""
    return config.dump.path or os.path.join(run_dir, "dump")


def wanted(config):
    """Whether anything is to be dumped."""
    return bool(config.dump.steps or config.dump.overflow)


class Dumps:
    """Dumps what a configuration asks for, in the session that trains."""

    def __init__(self, session, training, config, run_dir, made):
        """made: the last step before this start."""
        self._session, self._training, self._made, self._what = session, training, made, config.dump.what
        self._steps, self._overflow = step_ranges.chosen(config.dump.steps, "dump.steps"), config.dump.overflow
        self._folder = folder(config, run_dir)
        self._refused = False

    def before(self, number, batch):
        """Dump a step that was asked for, from its batch and the weights before it."""
        if any(number - self._made - 1 in steps for steps in self._steps):
            directory = self._directory(number, "")
            self._write(directory, number, batch, arrays=self._what == "tensors")
            log.info("step %d is dumped to %s", number, directory)

    def after(self, number, batch, row):
        """Dump the statistics of a step that was not made for its numbers; row: of the table of losses."""
        if not self._overflow or self._refused:
            return
        _, code, _ = self._session.run(self._training.table)[row][-3:]  # Update.facts
        if code in (MADE, OVERFLOWED):  # overflowed: the loss scale was too high, and falls
            return
        self._refused = int(code) == REFUSED  # and so are all that follow
        directory = self._directory(number, "-overflow")
        began = self._write(directory, number, batch, arrays=False)
        log.warning("step %d: numbers that are none begin in %s; statistics of all layers: %s", number, began or "no tensor of it", directory)

    def _directory(self, number, ending):
        return os.path.join(self._folder, "step-{:08d}{}".format(number, ending))

    def _write(self, directory, number, batch, arrays):
        """Compute and write a step's tensors or statistics. Returns the first that is not finite, in the order of computation, or ""."""
        shown = self._training.observed
        used = shown.used
        fetched = {"activations": shown.activations, "losses": dict(shown.losses._asdict()), "gradients": shown.gradients}
        if shown.factor is not None:
            fetched["factor"] = shown.factor
        found = self._session.run(fetched, {tensor: getattr(batch, name) for name, tensor in used.items()})
        found["gradients"] = {name: value / np.float32(found.get("factor", 1)) for name, value in found["gradients"].items()}
        groups = {
            "inputs": {name: getattr(batch, name) for name in used},
            "activations": {name: np.concatenate(parts) for name, parts in found["activations"].items()},
            "losses": found["losses"],
            "gradients": dict(reversed(list(found["gradients"].items()))),  # the last layer's come first
        }
        made = {name: {key: statistics(value) for key, value in group.items()} for name, group in groups.items()}
        bad = [(name, key) for name, group in made.items() for key, figures in group.items() if figures["nan"] or figures["inf"]]
        began = "{} ({})".format(bad[0][1], bad[0][0]) if bad else ""
        record = dict(made, v=1, step=number, names=batch.names, first_not_finite=began)
        try:
            if arrays:
                for name, group in groups.items():
                    with files.atomic_file(os.path.join(directory, name + ".npz"), durable=False) as f:
                        np.savez(f, **group)
            text = json.dumps(record, indent=1, allow_nan=False) + "\n"  # in the order of computation
            files.write_bytes(os.path.join(directory, "stats.json"), text.encode("utf-8", "backslashreplace"))
        except OSError as error:  # a full disk ends no training
            log.warning("%s cannot be written: %s", directory, error.strerror or error)
        return began


def statistics(value):
    """Return the statistics of an array as plain data; those of its finite numbers, None where there are none."""
    value = np.asarray(value)
    numbers = value.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    figures = {"shape": list(value.shape), "dtype": value.dtype.name, "nan": int(np.isnan(numbers).sum()), "inf": int(np.isinf(numbers).sum())}
    figures["zeros"] = int((numbers == 0).sum())
    for name, of in (("min", np.min), ("max", np.max), ("mean", np.mean), ("std", np.std)):
        figures[name] = float(of(finite)) if finite.size else None
    return figures


def npu_dump_options(config, directory):
    """Return {key: value} of the options of an NPU's session that have CANN dump into a directory that exists; {} where nothing is asked for.

    Errors: UserError for steps and overflow together, which CANN excludes.
    """
    if config.dump.steps and config.dump.overflow:
        raise UserError("dump.steps={} excludes dump.overflow on an NPU: set one of them".format(config.dump.steps))
    if config.dump.steps:
        kind = {"tensors": "tensor", "stats": "stats"}[config.dump.what]
        options = {"enable_dump": True, "dump_step": config.dump.steps, "dump_mode": "all", "dump_data": kind}
    elif config.dump.overflow:
        options = {"enable_dump_debug": True, "dump_debug_mode": "all"}
    else:
        return {}
    return dict(options, dump_path=os.path.abspath(directory))
