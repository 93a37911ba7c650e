"""All keys of the configuration: one dataclass a section, and under each key its meaning.

A key's type, default and limits are declared here and nowhere else; `mtc.config` reads presets, files and overrides into these.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List


def choice(default, *values):
    """Declare a string key that takes only these values."""
    return field(default=default, metadata={"choices": values})


def bounded(default, least, most=None):
    """Declare a number that is at least `least` and at most `most`."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass
class Data:
    """What is trained on, and how it is cropped."""

    root: str = "data/coco2017"
    """Folder with train2017/, val2017/ and annotations/; preprocessing adds mask2017/, COCO.json and COCO_val.json."""
    mix: Dict[str, int] = field(default_factory=lambda: {"coco": 1})
    """How many of `sum(mix)` consecutive samples come from each source: coco (2D labels), synthetic3d (3D labels), synthetic_hand (3D labels)."""
    crop_scale_sigma: float = bounded(0.1, 0, 1)
    """Jitter of the crop's scale: exp of a normal truncated at two sigma. 0: none."""
    crop_offset_sigma: float = bounded(0.1, 0, 1)
    """Jitter of the crop's centre in half sizes of the person: a normal truncated at two sigma. 0: none."""
    zoom_2d: float = bounded(1.8, 1, 10)
    """Side of the crop over twice the farthest joint, for 2D samples."""
    zoom_3d: float = bounded(1.5, 1, 10)
    """The same for 3D samples, in 3D units."""
    workers: int = bounded(0, 0, 256)
    """Threads that decode and crop, and that make masks. 0: one a core. Any number gives the same result."""
    prefetch: int = bounded(4, 1, 1024)
    """Batches that are made ready ahead of the step."""
    cache_mb: int = bounded(0, 0, 1048576)
    """Memory for decoded images and masks, in MB; what is decoded when it is full is not kept. 0: nothing is. The result is the same."""
    max_bad_fraction: float = bounded(0.001, 0, 1)
    """Share of a source's samples that may be unusable (file missing or truncated, mask that does not fit): each is replaced by the next one of its
    source, counted and named in metrics.jsonl; beyond it the run stops. 0: the first one stops it. Preprocessing takes it for the annotations and the
    images that something is wrong with."""
    mask_store: str = choice("rle", "rle", "png")
    """How preprocessing keeps masks. rle: run lengths, in one file of a split. png: the reference's files in mask2017/, two for each image."""


@dataclass
class Augment:
    """How training samples are varied, beside `data.crop_scale_sigma` and `data.crop_offset_sigma`. Labels move with the image. 0: off."""

    rotate: float = bounded(0.0, 0, 180)
    """Largest turn of the crop in degrees, either way."""
    flip: float = bounded(0.0, 0, 1)
    """Share of samples that are mirrored, left and right joints changing places; for model.kind=body."""
    brightness: float = bounded(0.0, 0, 1)
    """Colours are multiplied by 1 plus or minus up to this."""
    contrast: float = bounded(0.0, 0, 1)
    """Distances of colours from mid grey are multiplied by 1 plus or minus up to this."""
    saturation: float = bounded(0.0, 0, 1)
    """Distances of colours from their own grey are multiplied by 1 plus or minus up to this."""
    hue: float = bounded(0.0, 0, 0.5)
    """Largest turn of the hue, either way; 0.5 is half the colour circle."""
    blur: float = bounded(0.0, 0, 1)
    """Share of samples that are blurred."""
    blur_sigma: float = bounded(3.0, 0.1, 100)
    """Largest standard deviation of the blur in pixels of the crop."""
    occlude: float = bounded(0.0, 0, 1)
    """Share of samples that a rectangle hides a part of; hidden joints keep their labels."""
    occlude_size: float = bounded(0.4, 0.01, 1)
    """Largest side of the rectangle over the crop's."""


@dataclass
class Synthetic:
    """The synthetic data set that `fetch.source=synthetic` makes."""

    seed: int = bounded(1, 0, 2**32 - 1)
    train_images: int = bounded(600, 1, 1000000)
    """Images of train2017; each holds one to `people` people."""
    val_images: int = bounded(100, 1, 1000000)
    samples_3d: int = bounded(600, 0, 1000000)
    """People with 3D labels (source synthetic3d)."""
    hands_3d: int = bounded(0, 0, 1000000)
    """Hands with 3D labels (source synthetic_hand)."""
    people: int = bounded(3, 1, 30)
    """Most labelled people in an image."""
    width: int = bounded(320, 64, 640)
    """Longer side of an image in pixels."""


@dataclass
class Model:
    """The network (CPM, two branches)."""

    kind: str = choice("body", "body", "hand")
    width: float = bounded(1.0, 0.01, 4)
    """Multiplier of every hidden layer's channels; 1 is the published network."""
    stages: int = bounded(6, 1, 20)
    """All stages, the first one included; the published network has 6."""
    crop: int = bounded(368, 32, 2048)
    """Side of the square input in pixels, divisible by 8."""


@dataclass
class Targets:
    """What the network should answer, in pixels of the crop."""

    sigma: float = bounded(7.0, 0.1, 1000)
    """Standard deviation of a joint's peak in a heat-map."""
    limb_width: float = bounded(8.0, 0.1, 1000)
    """Half-width of a limb in a part orientation field."""


@dataclass
class Snapshot:
    """Weights to start from: a TensorFlow checkpoint with the reference's variable names."""

    uri: str = "auto"
    """auto: the one checkpoint in snapshots/, if any. none: start from initial weights. Or a folder, a checkpoint prefix, an archive,
    file://, http(s):// or s3://."""
    sha256: str = ""
    """SHA-256 of the archive, checked after the download. Empty: not checked."""
    adam: bool = True
    """Take over Adam's moments too, where the snapshot has them."""
    discard: List[str] = field(default_factory=list)
    """Leave out variables whose name contains one of these."""
    rename: Dict[str, str] = field(default_factory=dict)
    """Replace the first occurrence of each key in a name: {"body/CPM": "CPM"}."""


@dataclass
class Train:
    """The training loop."""

    start_step: int = bounded(0, 0)
    """Number of the step before the first one of this run."""
    steps: int = bounded(400000, 1)
    """Number of the last step."""
    only: int = bounded(0, 0)
    """Make at most so many steps from where the run stands, then end as after the last one. 0: all."""
    batch_size: int = bounded(1, 1, 65536)
    lr: List[float] = field(default_factory=lambda: [1e-4, 1e-5])
    """Learning rates, one more than `lr_steps`."""
    lr_steps: List[int] = field(default_factory=lambda: [100000])
    """The learning rate changes after each of these steps."""
    pof_weight: float = bounded(1.0, 0)
    """Weight of the POF loss beside the heat-map loss."""
    snapshot_every: int = bounded(5000, 1)
    """Steps between two checkpoints; the last step always makes one."""
    log_every: int = bounded(10, 1)
    """Steps between two log lines. The losses of all steps are in metrics.jsonl."""
    seed: int = bounded(0, 0, 2**32 - 1)
    """Seed of initial weights, order of samples and jitter."""
    device: str = choice("auto", "auto", "cpu", "gpu", "npu")
    precision: str = choice("fp32", "fp32", "mixed_fp16", "mixed_bf16")
    """mixed_…: convolutions take 16-bit numbers; weights, optimizer, losses and sums stay float32. fp16 has three digits and ends at 65504, bf16 has
    two and the range of float32. What each value means on each device: docs/precision.md. A run may change it."""
    threads: int = bounded(0, 0, 1024)
    """TensorFlow's threads on the CPU. 0: one a core."""
    micro_batch: int = bounded(0, 0, 65536)
    """Samples that go through the network at once; their gradients add up to those of the whole batch, with the memory of so many. 0: all."""
    recompute: str = choice("none", "none", "stages")
    """stages: keep only what enters each block and branch of the network and compute the rest again for the gradient: less memory, more time."""
    compile: str = choice("none", "none", "xla")
    """xla: let TensorFlow's compiler fuse operations (CPU, GPU). Measure it: docs/performance.md."""
    replicas: int = bounded(1, 1, 64)
    """Devices of this machine that share each batch (virtual ones on the CPU, GPUs 0, 1, …); batch_size is that of all together."""
    deterministic: str = choice("auto", "auto", "yes", "no")
    """yes: ask TensorFlow for kernels that give the same bits each time, and refuse what has none. auto: yes on the CPU. docs/reliability.md."""
    ema: float = bounded(0.0, 0, 0.999999)
    """Decay of the moving average of the weights, which is what gets evaluated then; kept in the checkpoint beside them. 0: none."""
    skip_non_finite: int = bounded(0, 0, 1000000)
    """Steps of the whole run that may be skipped because their loss or gradient is no number; one more stops the run."""
    profile: str = ""
    """Steps to trace and to divide into what they are made of: 100:110 are steps 100 to 109. At most 100; empty: none. docs/profiling.md."""


@dataclass
class Distributed:
    """Several processes that train together, its ranks: `python -m tasks.launch`, docs/distributed.md."""

    patience: float = bounded(600.0, 1, 86400)
    """Seconds in which all ranks have to come; nobody starts before."""
    silence: float = bounded(60.0, 5, 86400)
    """A rank that was not heard of for so many seconds is gone, and the others end."""
    bucket_mb: float = bounded(4.0, 0.001, 1024)
    """Gradients travel in pieces of about so many megabytes (CPU, GPU)."""


@dataclass
class LossScale:
    """What the loss is multiplied by before its gradient is taken, and the gradient divided by after: small gradients vanish in fp16."""

    mode: str = choice("auto", "auto", "dynamic", "fixed", "none")
    """dynamic: as large as it can be. fixed: `initial`, always. auto: dynamic for train.precision=mixed_fp16, else none."""
    initial: float = bounded(2.0**15, 1, 2.0**127)
    factor: float = bounded(2.0, 1.001, 1024)
    """dynamic: it grows and falls by this factor, and never below 1."""
    increase_every: int = bounded(1000, 1, 2**31 - 1)
    """dynamic: good steps after which it grows."""
    decrease_after: int = bounded(2, 1, 1000)
    """dynamic: overflowed steps after which it falls."""


@dataclass
class Npu:
    """How an Ascend NPU computes; see docs/precision.md."""

    chip: str = choice("auto", "auto", "910", "910B")
    """910: Atlas 800 (model 9000, 9010) and Atlas 300T; 910B: Atlas A2. auto: as npu-smi says, else 910."""
    precision_mode: str = "auto"
    """A mode of CANN's adapter. auto: fp32 is force_fp32, mixed_fp16 allow_mix_precision, mixed_bf16 (910B only) allow_mix_precision_bf16."""
    iterations_per_loop: int = bounded(1, 1, 100)
    """Steps that the NPU makes by itself in one call, with batches from a queue of its own; it saves, stops and obeys between two calls only."""
    gradient_fusion: List[float] = field(default_factory=list)
    """Several ranks: shares of the gradients' bytes that HCCL adds up together, in percent, in the order in which they are made: [90, 10]. Empty:
    HCCL's own, 96.54 and 3.46."""
    options: Dict[str, Any] = field(default_factory=dict)
    """Other options of the adapter's session, by its own names: {op_compiler_cache_dir: /var/cache/ascend}; unknown ones are refused."""


@dataclass
class Checkpoint:
    """Which checkpoints stay in the run directory. One that is not in the storage yet always stays, and so does the newest."""

    keep_last: int = bounded(5, 0)
    """So many of the newest stay. 0: all."""
    keep_every: int = bounded(0, 0)
    """Those at a multiple of so many steps after train.start_step stay, too. 0: none for that reason."""
    keep_best: int = bounded(1, 0, 1000)
    """So many of the best by evaluation.metric stay, too; for evaluation.samples above 0."""
    foreign: str = choice("refuse", "refuse", "accept")
    """accept: go on from a checkpoint of another run or another configuration that is found in the run directory or the storage."""


@dataclass
class Evaluation:
    """Held-out accuracy during training, at each checkpoint that falls due (not at those of a stop)."""

    samples: int = bounded(0, 0)
    """Held-out samples to evaluate, evenly spaced. 0: no evaluation before the report."""
    metric: str = choice("pck", "pck", "auc")
    """pck: PCK@0.1. auc: area under the PCK curve up to 0.5. Higher is better; it says which checkpoints are best, and when to stop early."""
    patience: int = bounded(0, 0)
    """Stop, successfully, after so many evaluations in a row without a better one. 0: never."""
    min_gain: float = bounded(0.0, 0, 1)
    """By how much an evaluation must beat the best one to count as better."""


@dataclass
class Previews:
    """Contact sheets of the network's answers to held-out samples, made while training goes on: previews/step-…/ in the run directory."""

    every: int = bounded(0, 0)
    """Steps between two. 0: none."""
    samples: int = bounded(4, 1, 8)
    """Held-out samples on a sheet, evenly spaced."""
    keep: int = bounded(20, 1)
    """So many of the newest stay."""


@dataclass
class Dump:
    """What single steps compute, as files, to find where numbers go wrong. docs/profiling.md."""

    steps: str = ""
    """Steps to dump, counted from 0 at each start of the trainer: 0|5|10-20. Empty: none."""
    path: str = ""
    """Folder that they go to. Empty: dump/ in the run directory."""
    what: str = choice("tensors", "tensors", "stats")
    """tensors: the batch, each layer's output and each gradient as arrays, with their statistics. stats: the statistics alone."""
    overflow: bool = False
    """True: statistics of every layer at each step whose loss or gradient is no number. Every step is waited for."""


@dataclass
class Storage:
    """Where checkpoints are uploaded to while training goes on."""

    uri: str = "storage"
    """A folder, file:///… or s3://bucket/prefix; the run's name is added. Credentials of S3: the usual AWS_* variables."""
    endpoint: str = ""
    """URL of an S3-compatible server, for all that is read from and written to s3://. Empty: AWS."""
    region: str = ""
    keep_last: int = bounded(0, 0)
    """So many of the newest uploaded checkpoints stay in the storage. 0: all."""
    keep_every: int = bounded(0, 0)
    """Those at a multiple of so many steps after train.start_step stay there, too; checkpoint.keep_best holds there as well."""
    lease_seconds: float = bounded(60.0, 1, 3600)
    """A trainer on another machine that was not heard of for so long may be replaced, with --take-over."""
    patience: float = bounded(600.0, 0, 604800)
    """Seconds to go on trying, when training is done, to upload what is not there yet."""
    resume: bool = True
    """A run directory without checkpoints goes on from what the storage has under its name. False: such a name is refused."""


@dataclass
class Fetch:
    """Where the data set comes from."""

    source: str = "http://images.cocodataset.org"
    """Base of the archives: http(s)://, s3://, file:// or a folder (with the archives, or with the extracted train2017/, val2017/,
    annotations/); or: synthetic."""
    manifest: str = "official"
    """Sizes and SHA-256 of the archives: official (COCO 2017), a JSON file or URL; none: not checked."""
    images: int = bounded(0, 0, 64115)
    """Fetch so many images of train2017 one by one, and a tenth as many of val2017, instead of the archives. 0: the archives."""
    ids: str = ""
    """The same for the image ids in this file: one a line, or a JSON list."""
    parallel: int = bounded(3, 1, 16)
    """Archives that are fetched at the same time."""
    keep_archives: bool = True
    """False: an archive that was downloaded is deleted once it is unpacked; those in a source folder of yours never are."""


@dataclass
class Report:
    """The final report."""

    last: int = bounded(10, 1)
    """The headline loss is the mean over this many last steps (reference: 10)."""
    samples: int = bounded(200, 1)
    """Most held-out samples to evaluate."""
    pictures: int = bounded(8, 0, 64)
    """Held-out samples to draw."""


@dataclass
class Compat:
    """Switches between what is right and what the reference does; see docs/differences.md."""

    mask: str = choice("miss", "miss", "all")
    """miss: ignore unlabelled people. all: count only pixels of people (the Ascend port)."""
    crop: str = choice("exact", "exact", "legacy")
    """legacy: the reference's crop, up to 0.8 px away from its own labels."""
    distortion: str = choice("exact", "exact", "legacy")
    """legacy: x²y² instead of xy in the tangential distortion."""
    shuffle: bool = True
    """False: samples in file order (the Ascend port)."""
    lr_boundary: str = choice("exact", "exact", "legacy")
    """exact: step lr_steps[i] is the last with lr[i]. legacy: of two learning rates the first holds one step longer."""
    background_weight: float = bounded(-1.0, -1)
    """Weight of the background heat-map in the loss. -1: 0 for the body, 1 for the hand."""
    ignore_paf_2d: bool = False
    """True: 2D-only samples give no POF loss at all."""
    loss: str = choice("low_resolution", "low_resolution", "full_resolution")
    """full_resolution: enlarge all maps and compare them in full, as the reference does; the same numbers, much slower."""


@dataclass
class Config:
    """A whole run."""

    name: str = "custom"
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    synthetic: Synthetic = field(default_factory=Synthetic)
    model: Model = field(default_factory=Model)
    targets: Targets = field(default_factory=Targets)
    snapshot: Snapshot = field(default_factory=Snapshot)
    train: Train = field(default_factory=Train)
    distributed: Distributed = field(default_factory=Distributed)
    loss_scale: LossScale = field(default_factory=LossScale)
    npu: Npu = field(default_factory=Npu)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    previews: Previews = field(default_factory=Previews)
    dump: Dump = field(default_factory=Dump)
    storage: Storage = field(default_factory=Storage)
    fetch: Fetch = field(default_factory=Fetch)
    report: Report = field(default_factory=Report)
    compat: Compat = field(default_factory=Compat)
