"""The straightforward way to prepare COCO, for comparison: one process, pycocotools' own COCO class, a mask per person, an image per file.

It does what `tasks.preprocess` does to good annotations (records by the same three rules, both masks) and checks nothing.
"""

import json
import os
import sys

import cv2
import numpy as np
from pycocotools.coco import COCO


def main(root):
    """Write COCO.json and masks of both splits below <root>/loop."""
    folder = os.path.join(root, "loop")
    os.makedirs(folder, exist_ok=True)
    for split in ("train", "val"):
        coco = COCO(os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split)))
        people = []
        for image_id in sorted(coco.imgToAnns):
            image, anns = coco.imgs[image_id], coco.imgToAnns[image_id]
            persons, unlabelled, crowd = (np.zeros((image["height"], image["width"]), bool) for _ in range(3))
            for ann in anns:
                mask = coco.annToMask(ann).astype(bool)
                if ann["iscrowd"]:
                    crowd |= mask
                else:
                    persons |= mask
                    if not ann["num_keypoints"]:
                        unlabelled |= mask
            for kind, mask in (("miss", ~(unlabelled | (crowd & ~persons))), ("all", persons | crowd)):
                cv2.imwrite(os.path.join(folder, "{}2017_mask_{}_{:012d}.png".format(split, kind, image_id)), mask * np.uint8(255))
            people += records(image, anns)
        with open(os.path.join(folder, split + ".json"), "w", encoding="utf-8") as f:
            json.dump({"root": people}, f)


def records(image, anns):
    """Return a record for each accepted person of an image."""
    made, earlier = [], []
    for ann in anns:
        x, y, width, height = ann["bbox"]
        center = np.array([x + width / 2, y + height / 2])
        if ann["num_keypoints"] < 5 or ann["area"] < 32 * 32 or any(np.linalg.norm(center - other) < 0.3 * size for other, size in earlier):
            continue
        earlier.append((center, max(width, height)))
        others = [other for other in anns if other is not ann and other["num_keypoints"]]
        made.append(
            {
                "img_paths": image["file_name"],
                "bbox": ann["bbox"],
                "joint_self": joints(ann),
                "joint_others": [joints(other) for other in others],
                "bbox_other": [other["bbox"] for other in others],
            }
        )
    return made


def joints(ann):
    """Return [[x, y, flag], ...] in OpenPose's flags."""
    points = np.array(ann["keypoints"]).reshape(17, 3)
    points[:, 2] = np.array([2, 0, 1])[points[:, 2]]
    return points.tolist()


if __name__ == "__main__":
    main(sys.argv[1])
