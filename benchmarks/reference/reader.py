"""The input pipeline of the reference: TFRecord of labels, repeat, map with 64 parallel calls, batch, prefetch of 64 samples.

A sample's dictionary holds what its training consumes: the crop, its mask, heat-maps and POF at full resolution (50 MB at 368 px), joint validity
and whether labels are 3D. The crop is that of `compat.crop=legacy`.
"""

import os

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.reference import targets

CANVAS = 640
OTHERS = 20
PARALLEL = 64


def write_records(samples, path):
    """Write the labels of `mtc.data.sample.Sample`s with masks to a TFRecord file; those with more other people than the format holds are left out.

    Returns how many were written.
    """
    written = 0
    with tf.io.TFRecordWriter(path) as writer:
        for sample in samples:
            if sample.mask is None or len(sample.others) > OTHERS:
                continue
            others = np.zeros((OTHERS, 4), np.int32)
            others[: len(sample.others)] = sample.others
            features = {
                "body": np.asarray(sample.uv, np.float32).tobytes(),
                "body_valid": np.asarray(sample.valid, bool).tobytes(),
                "other_bbox": others.tobytes(),
                "img_dirs": sample.image.encode("utf-8"),
                "mask_dirs": _mask_file(sample.mask, path + ".masks").encode("utf-8"),
            }
            features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
            written += 1
    return written


def _mask_file(mask, folder):
    """Return the path of a mask's PNG; one that is kept as run lengths gets a file in `folder`, for the reference knows nothing else."""
    if isinstance(mask, str):
        return mask
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "{:012d}.png".format(mask.image_id))
    if not os.path.exists(path):
        cv2.imwrite(path, mask.pixels(), [cv2.IMWRITE_PNG_BILEVEL, 1])
    return path


def iterator(path, config, skeleton):
    """Return the initializable iterator over batches of sample dictionaries; sizes, jitter and target widths are those of `config`.

    The prefetch is 64 samples at any batch size: the 64 batches of the reference, which trains at batch 1, would be 13 GB at batch 4.
    """
    batch = config.train.batch_size
    records = tf.data.TFRecordDataset(path).repeat()
    samples = records.map(lambda record: _preprocess(record, config, skeleton), num_parallel_calls=PARALLEL)
    return tf.data.make_initializable_iterator(samples.batch(batch, drop_remainder=True).prefetch(max(1, PARALLEL // batch)))


def _preprocess(record, config, skeleton):
    names = ("body", "body_valid", "other_bbox", "img_dirs", "mask_dirs")
    features = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], tf.string) for name in names})
    joints = len(skeleton.joints)
    uv = tf.reshape(tf.decode_raw(features["body"], tf.float32), [joints, 2])
    valid = tf.cast(tf.reshape(tf.decode_raw(features["body_valid"], tf.uint8), [joints]), tf.bool)
    others = tf.reshape(tf.decode_raw(features["other_bbox"], tf.int32), [OTHERS, 4])

    image = tf.image.decode_jpeg(tf.io.read_file(features["img_dirs"]), channels=3)
    image = tf.cast(tf.image.pad_to_bounding_box(image, 0, 0, CANVAS, CANVAS), tf.float32) / 255.0 - 0.5
    mask = tf.image.decode_png(tf.io.read_file(features["mask_dirs"]), channels=3)
    mask = tf.cast(tf.image.pad_to_bounding_box(mask, 0, 0, CANVAS, CANVAS)[:, :, 0], tf.float32)
    mask = tf.minimum(mask, tf.cast(_outside(others), tf.float32))

    size = config.model.crop
    center, scale = _crop(uv, valid, skeleton.centre_joints, config)
    uv = (uv - center) * scale + size / 2.0
    xyz = tf.concat([uv, tf.zeros_like(uv[:, :1])], axis=1)
    return {
        "image_crop": _cut(image, center, scale, size),
        "mask_crop": _cut(mask[:, :, None], center, scale, size)[:, :, 0],
        "scoremap2d": targets.heatmaps(uv, valid, size, config.targets.sigma),
        "PAF": targets.orientation_fields(uv, xyz, valid, skeleton.limbs, size, config.targets.limb_width),
        "PAF_type": tf.constant(False),
        "body_valid": valid,
    }


def _outside(boxes):
    """Return (CANVAS, CANVAS) bool: whether a pixel is outside all boxes, each compared with the whole image."""
    rows, columns = np.mgrid[:CANVAS, :CANVAS].astype(np.int32)
    rows, columns = tf.constant(rows)[None], tf.constant(columns)[None]
    x1, y1, x2, y2 = (boxes[:, i, None, None] for i in range(4))
    return tf.logical_not(tf.reduce_any((columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2), axis=0))


def _crop(uv, valid, centre_joints, config):
    """Return the jittered crop's centre (2,) and scale, pixels of the image."""
    low = tf.reduce_min(tf.where(valid, uv, tf.fill(uv.shape, np.float32(np.inf))), axis=0)
    high = tf.reduce_max(tf.where(valid, uv, tf.fill(uv.shape, np.float32(-np.inf))), axis=0)
    of_joints = tf.add_n([uv[joint] for joint in centre_joints]) / len(centre_joints)
    center = tf.where(tf.reduce_all([valid[joint] for joint in centre_joints]), of_joints, (low + high) / 2.0)
    fit = tf.reduce_max(tf.maximum(high - center, center - low))
    side = 2.0 * fit * config.data.zoom_2d * tf.exp(_truncated_normal([], config.data.crop_scale_sigma))
    offset = fit * _truncated_normal([2], config.data.crop_offset_sigma)
    offset = tf.maximum(offset, center - side / 2.0 - low + 1.0)
    offset = tf.minimum(offset, center + side / 2.0 - high - 1.0)
    return center + offset, config.model.crop / side


def _truncated_normal(shape, sigma):
    return tf.truncated_normal(shape, stddev=sigma) if sigma else tf.zeros(shape)


def _cut(image, center, scale, size):
    """Return the (size, size, C) crop of an image (CANVAS, CANVAS, C)."""
    side = size / scale
    start = center - tf.floor(side / 2.0)
    box = tf.stack([start[1], start[0], start[1] + side, start[0] + side]) / CANVAS
    return tf.image.crop_and_resize(image[None], box[None], [0], [size, size])[0]
