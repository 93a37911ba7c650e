"""`python -m tasks.preview`: draws what a run is trained on: samples with their targets, or each augmentation by itself.

It only looks: unlike a step it leaves neither config.json nor a record in the run directory, holds no lock, always draws anew, and makes the
targets on the CPU, so that it can be run beside a training in the same directory. Options and exit codes are those of the steps.
"""

import argparse
import copy
import dataclasses
import logging
import os
import signal
import sys
from typing import NamedTuple

import cv2

from mtc import config as configuration
from mtc import files, quiet
from mtc.data import pipeline, readers
from mtc.errors import Stopped, UserError
from mtc.report import contact_sheet, pictures
from mtc.skeleton import SKELETONS
from tasks import step

log = logging.getLogger("mtc.preview")

MOST_SAMPLES, MOST_PEOPLE = 40, 6
"""Limits of --count, without and with --each: larger sheets are no picture that anyone looks at."""
DRAWS = 3
"""How often each augmentation is drawn on a person."""
EACH_SIDE = 176
"""Side of a panel in the sheet of augmentations, in pixels."""


class Augmentation(NamedTuple):
    """A change of samples that the configuration can switch on by itself."""

    title: str
    section: str
    key: str
    shown: float
    """The value that is drawn where the configuration has it off: strong enough to be seen."""
    strength: str = ""
    """For a probability, which is drawn as 1: the key in the same section that says how strong the change is, if there is one."""
    probability: bool = False


AUGMENTATIONS = (
    Augmentation("rotation", "augment", "rotate", 45.0),
    Augmentation("scale", "data", "crop_scale_sigma", 0.3),
    Augmentation("shift", "data", "crop_offset_sigma", 0.3),
    Augmentation("flip", "augment", "flip", 1.0, probability=True),
    Augmentation("brightness", "augment", "brightness", 0.4),
    Augmentation("contrast", "augment", "contrast", 0.6),
    Augmentation("saturation", "augment", "saturation", 0.8),
    Augmentation("hue", "augment", "hue", 0.3),
    Augmentation("blur", "augment", "blur", 1.0, "blur_sigma", probability=True),
    Augmentation("occlusion", "augment", "occlude", 1.0, "occlude_size", probability=True),
)


def main(argv=None):
    """Draw, print where the picture is, and return the exit code."""
    arguments = _parse(argv)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        config = configuration.load(arguments.config or _own_config(arguments.run_dir) or "coco_body", arguments.overrides)
        _check_count(arguments)
        path = _target(arguments, config)
        samples = readers.training(config)
        draw = each_sheet if arguments.each else samples_sheet
        sheet = draw(samples, config, arguments.first, arguments.count or (2 if arguments.each else 8))
        write(path, sheet)
    except UserError as error:
        print("error: {}".format(error), file=sys.stderr)
        return step.USER_ERROR
    except Stopped as stop:
        print("preview: stopped by {}".format(stop), file=sys.stderr)
        return step.STOPPED
    print("preview: {} ({} x {} pixels)".format(os.path.abspath(path), sheet.shape[1], sheet.shape[0]))
    return step.SUCCESS


def samples_sheet(samples, config, first, count):
    """Return the contact sheet, (H, W, 3) uint8 RGB, of samples number `first` to `first + count - 1` of a run, as training gets them.

    samples: {source: [Sample]}. Errors: UserError where an image or mask cannot be read.
    """
    skeleton = SKELETONS[config.model.kind]
    batch, chosen = _batch(samples, config, first, count), _chosen(samples, config, first, count)
    columns = [
        contact_sheet.Column("crop and labels", contact_sheet.skeleton_legend(skeleton)),
        contact_sheet.Column("mask", contact_sheet.mask_legend(config.compat.mask)),
        contact_sheet.Column("heat-maps", contact_sheet.heat_legend()),
        contact_sheet.Column("POF: x and y", contact_sheet.direction_legend()),
        contact_sheet.Column("POF: z", contact_sheet.depth_legend()),
    ]
    rows = []
    for i, (heat, fields) in enumerate(_targets(batch, config, skeleton)):
        image, is_3d = batch.image[i], batch.is_3d[i]
        panels = [
            pictures.draw(image, batch.uv[i], batch.valid[i], skeleton),
            contact_sheet.mask_panel(image, batch.mask[i]),
            contact_sheet.heat_panel(image, heat),
            contact_sheet.direction_panel(image, fields),
            contact_sheet.depth_panel(image, fields) if is_3d else contact_sheet.fit(contact_sheet.dark(image)),
        ]
        labels = "3D labels" if is_3d else "2D labels, no POF loss (compat.ignore_paf_2d)" if config.compat.ignore_paf_2d else "2D labels"
        caption = "sample {}:  {}  from {},  {}".format(first + i, batch.names[i], chosen[i][0], labels)
        rows.append(contact_sheet.Row(caption, panels, {} if is_3d else {4: "no z in 2D labels"}))
    title = "{}: samples {} to {} as training gets them".format(config.name, first, first + count - 1)
    return contact_sheet.sheet(title, _settings(config), columns, rows)


def each_sheet(samples, config, first, count):
    """Return a sheet, (H, W, 3) uint8 RGB, with a row for each augmentation: people without any, then with that one alone, drawn DRAWS times.

    The people are those of samples number `first` to `first + count - 1` of a run; the first draw of each is that sample's own.
    """
    chosen = _chosen(samples, config, first, count)
    people = [{source: [samples[source][index]]} for source, index in chosen]
    plain = [_small_crops(person, all_off(config), n, 1) for n, person in enumerate(people, first)]
    rows, footnotes = [], []
    for augmentation in AUGMENTATIONS:
        only, caption = switch_on(config, augmentation)
        try:
            configuration.check(only)
        except UserError as error:
            footnotes.append("{}:  not drawn, {}".format(augmentation.title, error))
            continue
        changed = [_small_crops(person, only, n, DRAWS) for n, person in enumerate(people, first)]
        rows.append(contact_sheet.Row(caption, [panel for pair in zip(plain, changed) for panels in pair for panel in panels], {}))
    columns = []
    for n in range(first, first + count):
        columns.append(contact_sheet.Column("sample {}, without".format(n), gap=5 * contact_sheet.GAP))
        columns += [contact_sheet.Column("draw {}".format(draw)) for draw in range(1, DRAWS + 1)]
    columns[0] = columns[0]._replace(legend=contact_sheet.skeleton_legend(SKELETONS[config.model.kind])[:, :EACH_SIDE])
    names = ["sample {}: {} from {}".format(n, samples[source][index].name, source) for n, (source, index) in enumerate(chosen, first)]
    title = "{}: each augmentation by itself".format(config.name)
    return contact_sheet.sheet(title, ",  ".join(names), columns, rows, footnotes)


def all_off(config):
    """Return a copy of a config without any augmentation."""
    made = copy.deepcopy(config)
    for augmentation in AUGMENTATIONS:
        setattr(getattr(made, augmentation.section), augmentation.key, 0.0)
    return made


def switch_on(config, augmentation):
    """Return a copy of a config with one augmentation alone, and a caption that says how strong it is drawn and what training does.

    Its value is the config's, or `augmentation.shown` where that is 0; a probability becomes 1.
    """
    value = _value(config, augmentation)
    used = 1.0 if augmentation.probability else value or augmentation.shown
    made = all_off(config)
    setattr(getattr(made, augmentation.section), augmentation.key, used)
    training = "as in training" if used == value else "training: {:g}".format(value) if value else "training: off"
    caption = "{}:  drawn with {}.{}={:g} ({})".format(augmentation.title, augmentation.section, augmentation.key, used, training)
    if augmentation.strength:
        strength = getattr(getattr(config, augmentation.section), augmentation.strength)
        caption += ", {}.{}={:g}".format(augmentation.section, augmentation.strength, strength)
    return made, caption


def write(path, sheet):
    """Write a sheet, (H, W, 3) uint8 RGB, as JPEG or PNG by the ending of `path`, whole or not at all. Errors: UserError."""
    data = pictures.encoded(sheet, os.path.splitext(path)[1].lower())
    try:
        files.write_bytes(path, data)
    except OSError as error:
        raise UserError("{} cannot be written: {}; choose another --out or --run-dir".format(path, error.strerror or error)) from None


def _parse(argv):
    parser = argparse.ArgumentParser(prog="python -m tasks.preview", description="Draw samples with their targets as training gets them.")
    parser.add_argument(
        "--config",
        default="",
        metavar="PRESET_OR_FILE",
        help="a preset (%s) or a YAML file; default: the config that --run-dir holds, else coco_body" % ", ".join(configuration.presets()),
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one key; may be repeated")
    parser.add_argument("--run-dir", default="", metavar="DIR", help="default: the config's name in $MTC_RUNS or runs/")
    parser.add_argument("--each", action="store_true", help="a sheet with a row for each augmentation instead")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first sample, counted from 0 at the run's first step")
    parser.add_argument("--count", type=int, default=None, metavar="N", help="how many samples; default: 8, with --each 2")
    parser.add_argument("--out", default="", metavar="FILE", help="a .jpg or .png; default: previews/samples.jpg or each.jpg in the run directory")
    return parser.parse_args(argv)


def _own_config(run_dir):
    path = os.path.join(run_dir, "config.json")
    return path if run_dir and os.path.isfile(path) else None


def _target(arguments, config):
    run_dir = arguments.run_dir or os.path.join(os.environ.get("MTC_RUNS", "runs"), config.name)
    path = arguments.out or os.path.join(run_dir, "previews", "each.jpg" if arguments.each else "samples.jpg")
    if os.path.splitext(path)[1].lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError("--out {}: expected a file name that ends in .jpg or .png".format(path))
    return path


def _check_count(arguments):
    most = MOST_PEOPLE if arguments.each else MOST_SAMPLES
    if arguments.count is not None and not 1 <= arguments.count <= most:
        raise UserError("--count {}: must be 1 to {}{}".format(arguments.count, most, " with --each" if arguments.each else ""))
    if not 0 <= arguments.first < 2**63:
        raise UserError("--first {}: must be 0 or more, and below 2^63".format(arguments.first))


def _chosen(samples, config, first, count):
    """Return (source, index in the source) of samples `first` to `first + count - 1` of a run."""
    order = pipeline.SampleOrder({k: len(v) for k, v in samples.items()}, config.data.mix, config.train.seed, config.compat.shuffle)
    return [order[n] for n in range(first, first + count)]


def _value(config, augmentation):
    return getattr(getattr(config, augmentation.section), augmentation.key)


def _batch(samples, config, first, count):
    """Return samples `first` to `first + count - 1` as one batch: what a sample looks like does not depend on the batches."""
    data, train = dataclasses.replace(config.data, prefetch=1), dataclasses.replace(config.train, batch_size=count)
    with pipeline.Pipeline(samples, dataclasses.replace(config, data=data, train=train), SKELETONS[config.model.kind], first=first) as batches:
        batch = next(batches)
    for bad in batch.bad:
        log.warning(
            "sample %d: %s of %s cannot be used (%s): training takes the next one, which is shown", bad.number, bad.name, bad.source, bad.reason
        )
    return batch


def _small_crops(person, config, first, count):
    """Return `count` panels of the one sample in `person`, with the randomness of the run's samples from number `first` on."""
    data = dataclasses.replace(config.data, mix=dict.fromkeys(person, 1))
    batch = _batch(person, dataclasses.replace(config, data=data), first, count)
    drawn = [pictures.draw(image, uv, valid, SKELETONS[config.model.kind]) for image, uv, valid in zip(batch.image, batch.uv, batch.valid)]
    return [cv2.resize(panel, (EACH_SIDE, EACH_SIDE), interpolation=cv2.INTER_AREA) for panel in drawn]


def _targets(batch, config, skeleton):
    """Yield (heat (S, S, J), fields (S, S, 3 L)) float32 of each sample, one at a time: they are large."""
    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf  # takes seconds to load: not before all files are read

    from mtc import devices, targets

    size, limbs = config.model.crop, skeleton.limbs
    with tf.Graph().as_default():
        uv, xyz = (tf.placeholder(tf.float32, [1, len(skeleton.joints), n]) for n in (2, 3))
        valid = tf.placeholder(tf.bool, [1, len(skeleton.joints)])
        heat = targets.heatmaps(uv, valid, size, config.targets.sigma)[0, :, :, :-1]
        fields = targets.orientation_fields(uv, xyz, valid, limbs, size, config.targets.limb_width)[0]
        on_host = devices.host_only(tf.ConfigProto(device_count={"GPU": 0}, intra_op_parallelism_threads=config.train.threads))
        with tf.Session(config=on_host) as session:
            for i in range(len(batch.uv)):
                part = slice(i, i + 1)
                yield session.run([heat, fields], {uv: batch.uv[part], xyz: batch.xyz[part], valid: batch.valid[part]})


def _settings(config):
    """Say in a line what is switched on."""
    augmented = ", ".join("{} {:g}".format(a.title, _value(config, a)) for a in AUGMENTATIONS if _value(config, a)) or "none"
    return "crops of {0} x {0} pixels, seed {1}, augmentation: {2}".format(config.model.crop, config.train.seed, augmented)


def _stop(number, frame):
    raise Stopped(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
