"""`python -m tasks.doctor`: can this run work here? Checks before anything long starts, a table, and what to do about each fault.

With --device KIND it also has that device make a few steps of a small network, and compares them with the CPU's: what to begin with on a new machine.
Every check runs, so that all faults are seen at once. It always looks again: what it depends on (disks, servers, devices) is no file of the run.
"""

import importlib
import logging
import math
import os
import platform
import shutil
import sys
import time

from mtc import quiet
from mtc.errors import UserError
from mtc.fetch import extract, pretrained
from mtc.storage import open_storage, split_uri
from mtc.training import memory
from mtc.training.ranks import world as worlds
from tasks import step

log = logging.getLogger("mtc.doctor")

PACKAGES = ("numpy", "cv2", "pycocotools.mask", "boto3", "requests", "yaml", "tqdm", "matplotlib", "jinja2")

COCO_DOWNLOAD, COCO_EXTRACTED, COCO_ANNOTATIONS, COCO_MASKS = 40 * 10**9, 21 * 10**9, 2 * 10**9, 2 * 10**9
"""Room for archives and their contents; for the contents alone; for the annotations and their archive; for what preprocessing adds."""
SYNTHETIC_SAMPLE = 250000
"""Bytes of a synthetic image, generously, in the archive and extracted."""
PARAMETERS = 54419420
"""Weights of the published body network; they grow with the square of the width."""


def main(argv=None):
    """Check, and return the exit code: 0 all is well, 2 something has to be put right."""
    return step.main(STEP, argv)


def run(context):
    """Run all checks and log the table. Errors: UserError with the sentences of all checks that failed."""
    config = context.config
    checks = (
        ("python", lambda: "{} at {}".format(platform.python_version(), sys.executable)),
        ("tensorflow", _tensorflow),
        ("packages", _packages),
        ("device", lambda: _device(config)),
    )
    if context.arguments.device:
        config.train.device = context.arguments.device
        checks += (("ascend", lambda: _ascend(config)),) if config.train.device == "npu" else ()
        checks += (("trial", lambda: _trial(config)),)
    checks += (
        ("run directory", lambda: _writable(context.run_dir, run_dir_bytes(config))),
        ("memory", lambda: _memory(config)),
        ("data", lambda: _data(config)),
        ("images", lambda: _images(config)),
        ("snapshot", lambda: _snapshot(config)),
        ("storage", lambda: _storage(context)),
    )
    table, faults = {}, []
    for name, check in checks:
        try:
            found = check()
            log.info("  ok      %-14s %s", name, found)
        except (UserError, OSError) as error:
            found = str(error) if isinstance(error, UserError) else "{} cannot be checked: {}".format(name, error)
            faults.append(found)
            log.info("  FAULT   %-14s %s", name, found)
        table[name] = found
    if faults:
        raise UserError("; ".join(faults))
    return step.Result(outputs=[], figures={"checks": table})


def data_bytes(config):
    """How many bytes the data folder still needs."""
    root, source = config.data.root, config.fetch.source
    if _has(root, "mask2017", "train2017", "annotations"):
        return 0
    if source == "synthetic":
        made = config.synthetic
        return SYNTHETIC_SAMPLE * (made.train_images + made.val_images + made.samples_3d + made.hands_3d)
    if config.fetch.images or config.fetch.ids:
        from mtc.fetch import subset  # with packages that may be missing: another check says so

        count = config.fetch.images or len(subset.read_ids(config.fetch.ids))
        return COCO_ANNOTATIONS + 2 * count * subset.IMAGE_BYTES
    if _has(root, "train2017", "annotations") or _has(_local(source), "train2017", "annotations"):
        return COCO_MASKS
    return COCO_EXTRACTED + COCO_MASKS if os.path.isdir(_local(source)) else COCO_DOWNLOAD


def run_dir_bytes(config):
    """How many bytes the checkpoints in the run directory need at most, about, as long as the storage takes what it is sent."""
    return _most_checkpoints(config, config.checkpoint.keep_last, config.checkpoint.keep_every) * checkpoint_bytes(config)


def storage_bytes(config):
    """How many bytes the run's checkpoints in the storage need at most, about."""
    return _most_checkpoints(config, config.storage.keep_last, config.storage.keep_every) * checkpoint_bytes(config)


def checkpoint_bytes(config):
    """How many bytes a checkpoint has, about: four for each weight, for each of Adam's two moments, and for the moving average if there is one."""
    numbers = 4 if config.train.ema else 3
    return int(numbers * 4 * _parameters(config))


def _parameters(config):
    """How many weights the network has, about."""
    return PARAMETERS * config.model.width**2 * config.model.stages / 6


def _most_checkpoints(config, keep_last, keep_every):
    """How many checkpoints of a run there are at once under a rule of `mtc.storage.retention`: the kept ones, and the next before another goes."""
    steps, every = config.train.steps - config.train.start_step, config.train.snapshot_every
    made = -(-steps // every)
    if not keep_last:
        return made
    regular = steps * math.gcd(keep_every, every) // (keep_every * every) if keep_every else 0
    best = config.checkpoint.keep_best if config.evaluation.samples else 0
    return min(made, keep_last + regular + best + 1)


def _tensorflow():
    try:
        return quiet.import_tensorflow().version.VERSION
    except Exception as error:
        raise _cannot_import("tensorflow", error) from None


def _packages():
    versions = []
    for name in PACKAGES:
        module = _import(name)
        version = getattr(module, "__version__", "")
        versions.append("{} {}".format(name.split(".")[0], version).strip())
    return ", ".join(versions)


def _import(name):
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package that is there but broken raises what it likes: OSError for a missing library, say
        raise _cannot_import(name, error) from None


def _cannot_import(name, error):
    return UserError("{} cannot be imported by {} ({}: {}): run `make setup`".format(name, sys.executable, type(error).__name__, error))


def _device(config):
    from mtc import devices  # with TensorFlow, which was imported without its remarks by now

    device = devices.select(config)
    return "{}: {} (train.device={})".format(device.kind, device.name, config.train.device)


def _ascend(config):
    """What CANN needs around the adapter, each fault with its remedy."""
    opp = os.environ.get("ASCEND_OPP_PATH")
    if not opp:
        raise UserError("ASCEND_OPP_PATH is not set: source CANN's set_env.sh in the shell that trains")
    if not os.path.isdir(opp):
        raise UserError("ASCEND_OPP_PATH={} is no folder: source the set_env.sh of the CANN that is installed".format(opp))
    try:
        importlib.import_module("hccl.manage.api")
        hccl = "hccl is there"
    except Exception as error:
        hccl = "no hccl, so one device only ({}: {})".format(type(error).__name__, error)
    environ = worlds.of_environment("npu")
    ranks = "rank {} of {}".format("to be found by HCCL" if environ.rank is None else environ.rank, environ.size) if environ else "one device"
    tried = sys.version_info[:2] != (3, 7) or 5 <= sys.version_info[2] <= 11
    remark = "" if tried else "; Python is {}, the vendor names 3.7.5 to 3.7.11".format(platform.python_version())
    return "CANN's operators at {}, {}, {}{}".format(opp, hccl, ranks, remark)


def _trial(config):
    from mtc import devices
    from mtc.training import trial

    device = devices.select(config, replicas=1)
    if device.before_first_step:
        log.info("  ...     %-14s %s", "trial", device.before_first_step)
    made = trial.run(config, device)
    told = "{} steps of a small network, losses within {:.1e} of the CPU's; the first took {:.1f} s, the last {:.2f} s"
    told = told.format(trial.STEPS, made.difference, made.first_seconds, made.seconds)
    if made.difference > trial.TOLERANCE:
        advice = "npu.precision_mode=force_fp32 tells whether it is the precision" if device.kind == "npu" else "train.precision=fp32 tells"
        raise UserError("{}: more than {:g}, so something is wrong ({})".format(told, trial.TOLERANCE, advice))
    return told


def arguments(parser):
    """Add what only the doctor takes."""
    parser.add_argument("--device", choices=("cpu", "gpu", "npu"), help="have this device make a few steps, and compare them with the CPU's")


def _memory(config):
    """What a process of the training needs; on a CPU it must be there, the memory of other devices is not known here."""
    needed, there = memory.estimate(config, _parameters(config)), memory.available()
    told = "about {} for a process of the training".format(_size(needed))
    if there is None:
        return told
    if config.train.device in ("cpu", "auto") and needed > there:
        advice = "lower train.batch_size, or set train.micro_batch or train.recompute=stages"
        raise UserError("the training needs {}, this machine has {} free: {}".format(told, _size(there), advice))
    return "{}, {} free".format(told, _size(there))


def _data(config):
    missing = data_bytes(config)
    return "{}: {}".format(config.data.root, _writable(config.data.root, missing))


def _images(config):
    from mtc.data import inspection  # with packages that may be missing: another check says so

    return inspection.inspect(config.data.root, config.data.max_bad_fraction, config.compat.mask)


def _snapshot(config):
    if "://" in config.snapshot.uri or config.snapshot.uri.endswith(extract.ENDINGS):
        return "{}: to be fetched".format(config.snapshot.uri)
    return pretrained.locate(config.snapshot) or "none: training starts from initial weights"


def _storage(context):
    config = context.config
    storage = open_storage(config.storage.uri, config.storage.endpoint, config.storage.region)
    storage.probe()
    kind, folder = split_uri(config.storage.uri)
    if kind == "file":  # the copies of the checkpoints; a folder on the disk of the run directory needs the room for both
        same = os.stat(folder).st_dev == os.stat(context.run_dir).st_dev
        return "{}: {}".format(storage.url(""), _writable(folder, storage_bytes(config) + (run_dir_bytes(config) if same else 0)))
    return storage.url("")


def _writable(folder, needed):
    """Refuse a folder that cannot be written, or whose disk has not the room."""
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise UserError("{} cannot be written: {} is no folder that this user may write to; choose another one".format(folder, there))
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError("{} needs {} and its disk has {} free: make room or choose another folder".format(folder, _size(needed), _size(free)))
    return "{} free, {} needed".format(_size(free), _size(needed))


def _size(count):
    return "{:.1f} GB".format(count / 1e9) if count >= 1e9 else "{:.0f} MB".format(count / 1e6)


def _has(folder, *names):
    return all(os.path.isdir(os.path.join(folder, name)) for name in names)


def _local(source):
    return source[len("file://") :] if source.startswith("file://") else source


STEP = step.Step(
    name="doctor",
    description=__doc__.splitlines()[0],
    inputs=lambda context: {"looked_at": time.time()},
    run=run,
    arguments=arguments,
)

if __name__ == "__main__":
    sys.exit(main())
