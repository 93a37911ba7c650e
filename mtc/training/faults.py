"""What a step that cannot be made leaves behind for a person: `<run_dir>/faults/step-00000123/`, the batch as arrays and as a picture."""

import contextlib
import logging
import os

import cv2
import numpy as np

from mtc import files

log = logging.getLogger("mtc.training")


def save_batch(run_dir, made, batch):
    """Save a `mtc.data.pipeline.Batch` and the figures of its step, a `mtc.training.steps.Done`; return the directory, or "" where that fails.

    batch.npz has the arrays of the batch, step.json the numbers, crops.png the crops side by side.
    """
    directory = os.path.join(run_dir, "faults", "step-{:08d}".format(made.number))
    try:
        os.makedirs(directory, exist_ok=True)
        with files.atomic_file(os.path.join(directory, "batch.npz")) as f:
            arrays = {name: value for name, value in batch._asdict().items() if isinstance(value, np.ndarray)}
            np.savez(f, names=np.array(batch.names), **arrays)
        _, png = cv2.imencode(".png", np.concatenate(list(batch.image[..., ::-1]), axis=1))
        files.write_bytes(os.path.join(directory, "crops.png"), png.tobytes())
        numbers = dict(made.losses._asdict(), grad_norm=made.grad_norm)
        record = {"v": 1, "step": made.number, "lr": made.rate, "names": made.names, "first_sample": made.first_sample}
        record.update({name: value if np.isfinite(value) else str(value) for name, value in numbers.items()})
        files.write_json(os.path.join(directory, "step.json"), record)
    except OSError as error:
        log.warning("%s cannot be written: %s", directory, error.strerror or error)
        return ""
    with contextlib.suppress(OSError):
        files.fsync_dir(os.path.dirname(directory))
    return directory
