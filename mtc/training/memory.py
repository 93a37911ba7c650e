"""How much memory a training needs, about, from its configuration alone.

The figures are those of docs/performance.md: TensorFlow 2 on a CPU at 368 px, 2.2 GB and 0.32 GB for each image that is computed at a time. The first
is the interpreter and what goes with the weights; the second grows with the pixels, the width and the number of stages.
"""

INTERPRETER = 6e8
COPIES = 7
"""float32 numbers a weight: itself, its gradient and the part that is being added up, two moments, and copies for the checkpoint."""
IMAGE, IMAGE_RECOMPUTED = 3.2e8, 0.8e8
"""Bytes of an image's activations at 368 px, and with train.recompute."""
SAMPLE = 4
"""Bytes of a pixel of a batch that waits: three colours and the mask."""


def estimate(config, parameters):
    """Return the bytes that one process needs. parameters: number of the network's weights."""
    train, size = config.train, config.model.crop
    share = (size / 368.0) ** 2 * config.model.width * config.model.stages / 6.0
    at_once = train.replicas * min(train.micro_batch or train.batch_size, train.batch_size // train.replicas)
    image = IMAGE_RECOMPUTED if train.recompute != "none" else IMAGE
    weights = 4 * parameters * (COPIES + bool(train.ema))
    waiting = config.data.prefetch * train.batch_size * size * size * SAMPLE
    return int(INTERPRETER + weights + at_once * image * share + waiting + config.data.cache_mb * 2**20)


def available():
    """Return the bytes that processes can still get on this machine (MemAvailable, and the control group's limit), or None where it is not told."""
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            found += [int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:")]
    except OSError:
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit, encoding="ascii") as f, open(used, encoding="ascii") as g:
                found.append(int(f.read()) - int(g.read()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return min(found) if found else None
