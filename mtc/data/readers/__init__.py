"""The sources of samples, one module each; here they are chosen by the configuration's `data.mix`."""

from mtc.data.readers import coco, synthetic3d
from mtc.errors import UserError


def training(config):
    """Return {source: [Sample]} of all sources with a share in `data.mix`."""
    return {source: _read(config, source, "train") for source, share in sorted(config.data.mix.items()) if share}


def held_out(config):
    """Return the held-out samples of the same sources, one list, sources in turn: never an image of the training set."""
    return [sample for source, share in sorted(config.data.mix.items()) if share for sample in _read(config, source, "val")]


def _read(config, source, split):
    if source == "coco":
        samples = coco.read(config.data.root, split, config.compat.mask)
    else:
        samples = synthetic3d.read(config.data.root, source, split, config.compat.distortion)
    if not samples:
        raise UserError("source {} has no usable sample for split {} in {}".format(source, split, config.data.root))
    return samples
