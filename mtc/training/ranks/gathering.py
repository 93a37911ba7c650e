"""How the ranks of a training find together: who they are, that they want the same, and their collectives."""

import dataclasses
import os
import zlib

from mtc import config as configuration
from mtc.errors import UserError
from mtc.training.ranks import link, team, world
from mtc.training.ranks.collectives import Collectives
from mtc.training.ranks.hccl import Hccl

_OWN_SECTIONS = ("name", "storage", "fetch", "synthetic", "report", "snapshot", "checkpoint", "previews", "distributed")
_OWN_KEYS = ("data.root", "data.workers", "data.prefetch", "data.cache_mb", "train.threads", "train.steps", "train.only", "train.log_every")
"""What ranks may differ in: where a machine keeps its files, and what rank 0 alone does."""


def checked(found, config):
    """Return the `World`. Errors: UserError where its ranks cannot share the batch equally."""
    parts, size = found.size * config.train.replicas, config.train.batch_size
    if size % parts:
        ranks = "{} ranks".format(found.size) + (" with train.replicas={}".format(config.train.replicas) if config.train.replicas > 1 else "")
        raise UserError("train.batch_size={}: cannot be divided equally among {}; it is that of all together".format(size, ranks))
    if config.train.micro_batch and size // parts % config.train.micro_batch:
        text = "train.micro_batch={}: must divide a rank's part of the batch, {} samples"
        raise UserError(text.format(config.train.micro_batch, size // parts))
    return found


def with_a_share_of_the_cores(config):
    """Return a config whose threads are this rank's share of the machine, where it says 0 (all of it)."""
    cores = max(1, (os.cpu_count() or 1) // world.local_size())
    train = dataclasses.replace(config.train, threads=config.train.threads or cores)
    return dataclasses.replace(config, train=train, data=dataclasses.replace(config.data, workers=config.data.workers or cores))


def lead(found, config, device, samples, versions, abandon):
    """Return the `team.Leader` of all ranks, once they are there, with its `collectives`."""
    port = None if found.addresses else link.free_port()
    made = team.Leader(found, _facts(config, samples, versions), config.distributed, abandon)
    made.addresses[0] = "{}:{}".format(made.meeting[0], port)
    addresses = list(found.addresses) or made.addresses
    made.start(addresses)
    made.collectives = _collectives(found, addresses, config, device)
    made.mirrors = device.kind == "npu"
    return made


def follow(found, config, device, samples, versions, abandon):
    """Return the `team.Follower`, once rank 0 lets it begin, with its `collectives`."""
    port = None if found.addresses else link.free_port()
    made = team.Follower(found, port, _facts(config, samples, versions), config.distributed, abandon)
    made.collectives = _collectives(found, made.addresses, config, device) if made.addresses else None
    return made


def _collectives(found, addresses, config, device):
    if device.kind == "npu":
        return Hccl(found.rank, found.size, device, config.npu.gradient_fusion)
    return Collectives(found.rank, addresses, device, int(config.distributed.bucket_mb * 1e6))


def _facts(config, samples, versions):
    """Return {name: value} of all that ranks must have in common."""
    facts = {}
    for section, keys in configuration.to_dict(config).items():
        if section not in _OWN_SECTIONS:
            facts.update({"{}.{}".format(section, key): value for key, value in keys.items()})
    facts = {key: value for key, value in facts.items() if key not in _OWN_KEYS}
    for source, found in samples.items():
        names = 0
        for sample in found:
            names = zlib.crc32(sample.name.encode("utf-8", "backslashreplace"), names)
        facts["data set " + source] = "{} samples, digest {:08x}".format(len(found), names)
    facts.update({"version of " + name: versions[name] for name in ("mtc", "tensorflow")})
    return facts
