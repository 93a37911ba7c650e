"""Joints, limbs and left/right pairs of body and hand, and the joint orders of the data sets: the one truth that all modules read.

Joint orders and limb lists are those of the published MTC snapshots (body: OpenPose's 18 joints, head-top, chest; hand: wrist, then each finger
from its tip to its base), so that channel k of a heat-map or of a part orientation field means the same everywhere.
"""

from typing import NamedTuple, Tuple


class Skeleton(NamedTuple):
    """What a network predicts: `len(joints)` heat-maps and a background, three POF channels a limb."""

    kind: str
    joints: Tuple[str, ...]
    limbs: Tuple[Tuple[int, int], ...]
    swap: Tuple[Tuple[int, int], ...]
    """Joints that change places in a mirrored image."""
    centre_joints: Tuple[int, ...]
    """A crop is centred on the mean of these joints where all of them are valid."""
    background_weight: float
    """Weight of the background heat-map in the loss (reference: 0 for the body, 1 for the hand)."""
    heat_upsampling: str
    """How heat-maps are enlarged for the loss: "bicubic" (body) or "bilinear" (hand)."""
    edges: Tuple[Tuple[int, int], ...]
    """The limbs that a drawing shows."""

    @property
    def heat_channels(self):
        return len(self.joints) + 1

    @property
    def pof_channels(self):
        return 3 * len(self.limbs)


_BODY_JOINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee",
    "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "head_top", "chest",
)  # fmt: skip

_BODY_LIMBS = (
    (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 2), (2, 3), (3, 4), (2, 16), (1, 5), (5, 6), (6, 7), (5, 17), (1, 0),
    (0, 14), (0, 15), (14, 16), (15, 17), (1, 18), (1, 19), (19, 8), (19, 11),
)  # fmt: skip

BODY = Skeleton(
    kind="body",
    joints=_BODY_JOINTS,
    limbs=_BODY_LIMBS,
    swap=((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)),
    centre_joints=(8, 11),
    background_weight=0.0,
    heat_upsampling="bicubic",
    edges=(
        (0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (0, 14), (14, 16),
        (0, 15), (15, 17), (1, 18), (1, 19),
    ),
)  # fmt: skip

_FINGERS = ("thumb", "index", "middle", "ring", "little")
_HAND_LIMBS = tuple(limb for base in (4, 8, 12, 16, 20) for limb in ((0, base), (base, base - 1), (base - 1, base - 2), (base - 2, base - 3)))

HAND = Skeleton(
    kind="hand",
    joints=("wrist",) + tuple("{}_{}".format(f, j) for f in _FINGERS for j in ("tip", "distal", "middle", "base")),
    limbs=_HAND_LIMBS,
    swap=(),
    centre_joints=(12,),
    background_weight=1.0,
    heat_upsampling="bilinear",
    edges=_HAND_LIMBS,
)

SKELETONS = {"body": BODY, "hand": HAND}

COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip

COCO_TO_BODY = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, 18, 19)
"""main[i] = source[COCO_TO_BODY[i]], where the source is COCO's 17 joints, then neck (17), head-top (18) and chest (19)."""
