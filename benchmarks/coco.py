"""Annotations of the size and the statistics of COCO 2017's people, for measuring what prepares them.

Of train2017: 118,287 images, 64,115 of them with 262,465 person annotations, 149,813 of which have keypoints and 5,212 are crowds; a file of about
240 MB (the data set's own description and published training logs; the number of crowds is the difference of two of them). Outlines have 1.25
polygons of 28 points on average, with a long tail; a crowd has some hundred run lengths. Sizes of images are COCO's most frequent ones. Image files
are JPEG headers of the right size and nothing else: preprocessing reads no more of them.
"""

import json
import os

import numpy as np

IMAGES, WITH_PEOPLE, PEOPLE, LABELLED, CROWDS = 118287, 64115, 262465, 149813, 5212

SIZES = ((640, 480, 0.45), (480, 640, 0.15), (640, 427, 0.2), (640, 426, 0.05), (427, 640, 0.07), (500, 375, 0.04), (612, 612, 0.04))
"""(width, height, share)."""
_LARGE = 0.35
"""Share of people of more than 96 x 96 pixels; a third is below 32 x 32."""


def write(root, split, share=1.0, seed=0, first_id=1):
    """Write annotations/person_keypoints_<split>2017.json with `share` of train2017's people, and the headers of their images; return the counts."""
    rng = np.random.RandomState(seed)
    images, people, labelled, crowds = (int(round(share * count)) for count in (WITH_PEOPLE, PEOPLE, LABELLED, CROWDS))
    sizes = rng.choice(len(SIZES), int(round(share * IMAGES)), p=[share for _, _, share in SIZES])
    with_people = np.sort(rng.choice(len(sizes), images, replace=False))
    per_image = np.ones(images, int)  # a long tail: half of the images have one or two
    np.add.at(per_image, rng.choice(images, people - images, p=_weights(rng, images)), 1)
    owners = np.repeat(with_people, per_image)
    kinds = np.array(["labelled"] * labelled + ["crowd"] * crowds + ["unlabelled"] * (people - labelled - crowds))
    rng.shuffle(kinds)
    folder = os.path.join(root, split + "2017")
    os.makedirs(os.path.join(root, "annotations"), exist_ok=True)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split))
    with open(path, "w", encoding="ascii") as f:
        f.write('{"info": {"description": "as COCO 2017"}, "licenses": [], "images": [')
        for number, size in enumerate(sizes):
            width, height, _ = SIZES[size]
            f.write((", " if number else "") + json.dumps(_image(split, first_id + number, width, height)))
        f.write('], "annotations": [')
        order = rng.permutation(people)  # COCO's own order is none either
        for number, at in enumerate(order):
            width, height, _ = SIZES[sizes[owners[at]]]
            annotation = _annotation(rng, int(number) + 1, first_id + int(owners[at]), width, height, kinds[at])
            f.write((", " if number else "") + json.dumps(annotation))
        f.write('], "categories": [{"supercategory": "person", "id": 1, "name": "person"}]}')
    for number in with_people:
        width, height, _ = SIZES[sizes[number]]
        with open(os.path.join(folder, "{:012d}.jpg".format(first_id + int(number))), "wb") as f:
            f.write(header(width, height))
    return {"images": images, "people": people, "labelled": labelled, "crowds": crowds, "megabytes": round(os.stat(path).st_size / 1e6, 1)}


def header(width, height):
    """Return a JPEG's bytes from the start to the frame, and its end mark."""
    frame = b"\xff\xc0\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + frame + b"\xff\xd9"


def _weights(rng, count):
    weights = rng.exponential(1.0, count) ** 2
    return weights / weights.sum()


def _image(split, number, width, height):
    name = "{:012d}.jpg".format(number)
    return {
        "license": 3,
        "file_name": name,
        "coco_url": "http://images.cocodataset.org/{}2017/{}".format(split, name),
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": "http://farm9.staticflickr.com/8186/{}_8b7b5f6a3c_z.jpg".format(8119368305 + number),
        "id": number,
    }


def _annotation(rng, number, image_id, width, height, kind):
    side = rng.choice([24, 64, 180], p=[0.32, 0.33, _LARGE]) * np.exp(rng.normal(0, 0.4))
    half = np.minimum([0.3 * side, 0.6 * side], [0.49 * width, 0.49 * height])
    center = half + rng.rand(2) * ([width, height] - 2 * half)
    keypoints, labelled = np.zeros((17, 3), int), 0
    if kind == "labelled":
        shown = rng.rand(17) < 0.65
        shown[rng.randint(17)] = True
        keypoints[:, :2] = np.round(center + half * (2 * rng.rand(17, 2) - 1))
        keypoints[:, 2] = 1 + (rng.rand(17) < 0.85)
        keypoints[~shown] = 0
        labelled = int(shown.sum())
    if kind == "crowd":
        number, segmentation, area = 900100000000 + number, {"counts": _blobs(rng, width, height), "size": [height, width]}, 9000.0
    else:
        segmentation = [_outline(rng, center, half) for _ in range(1 + (rng.rand() < 0.18) + (rng.rand() < 0.07))]
        area = round(float(half[0] * half[1] * 2.2), 4)
    x, y = center - half
    bbox = [round(float(n), 2) for n in (x, y, 2 * half[0], 2 * half[1])]
    return {
        "segmentation": segmentation,
        "num_keypoints": labelled,
        "area": area,
        "iscrowd": int(kind == "crowd"),
        "keypoints": keypoints.ravel().tolist(),
        "image_id": image_id,
        "bbox": bbox,
        "category_id": 1,
        "id": number,
    }


def _outline(rng, center, half):
    count = int(np.clip(np.exp(rng.normal(3.1, 0.65)), 4, 250))
    angles = np.sort(rng.rand(count)) * 2 * np.pi
    radius = 0.55 + 0.4 * rng.rand(count)
    points = center + half * np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return [round(n, 2) for n in points.ravel().tolist()]


def _blobs(rng, width, height):
    total = width * height
    starts = np.sort(rng.choice(total - 1, 2 * rng.randint(100, 700), replace=False)) + 1
    return np.diff(np.concatenate([[0], starts, [total]])).tolist()
