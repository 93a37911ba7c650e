"""Held-out crops with the labelled and the predicted skeleton side by side, as JPEG."""

import cv2
import numpy as np

SIDE = 288
"""Side of a drawn crop in pixels: lines stay readable for crops of any size."""

QUALITY = 85
LEFT, RIGHT, MIDDLE = (255, 159, 67), (72, 190, 255), (120, 224, 143)
"""RGB of the person's left side, right side, and what is neither."""


def side_by_side(picture, skeleton):
    """Return JPEG bytes: labels on the left, the network's answer for the same joints on the right. picture: `mtc.evaluation.held_out.Picture`."""
    halves = [draw(picture.image, joints, picture.valid, skeleton) for joints in (picture.truth, picture.predicted)]
    gap = np.full((SIDE, 6, 3), 40, np.uint8)
    return encoded(np.concatenate([halves[0], gap, halves[1]], axis=1), ".jpg")


def encoded(picture, ending):
    """Return the bytes of a file of a picture, (H, W, 3) uint8 RGB; ending: .jpg, .jpeg or .png."""
    made, data = cv2.imencode(ending, picture[:, :, ::-1], [] if ending == ".png" else [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert made, ending
    return data.tobytes()


def draw(image, joints, valid, skeleton):
    """Return the crop (S, S, 3) uint8 RGB enlarged to SIDE with the valid joints (J, 2) and the limbs between them."""
    scale = SIDE / float(len(image))
    canvas = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    canvas = (canvas * 0.8).astype(np.uint8)  # darker, so that the lines stand out from bright images
    shown = valid & np.isfinite(joints).all(axis=-1)
    places = [tuple(int(round(float(c))) for c in p) for p in np.where(shown[:, None], np.clip(joints, -9999, 9999), 0) * scale]
    for start, end in skeleton.edges:
        if shown[start] and shown[end]:
            cv2.line(canvas, places[start], places[end], _colour(skeleton.joints[end], skeleton.joints[start]), 2, cv2.LINE_AA)
    for joint in np.flatnonzero(shown):
        cv2.circle(canvas, places[joint], 3, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, places[joint], 3, _colour(skeleton.joints[joint]), 1, cv2.LINE_AA)
    return canvas


def _colour(*names):
    for name in names:
        if name.startswith(("left_", "right_")):
            return LEFT if name.startswith("left_") else RIGHT
    return MIDDLE
