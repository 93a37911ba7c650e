"""Random articulated people and hands in 3D: joints in the main order, centimetres, camera axes (x right, y down, z away).

A figure is made by forward kinematics from bone lengths of an average adult (own round numbers), random sizes and random joint angles. Neck
and chest are the means that COCO labels give (mean of the shoulders; mean of shoulders and hips), so that 2D and 3D labels mean the same.
"""

import numpy as np

from mtc.skeleton import BODY, HAND

_TORSO, _SHOULDER, _HIP = 50.0, 18.0, 10.0
_UPPER_ARM, _FOREARM, _THIGH, _SHANK = 28.0, 26.0, 42.0, 41.0
_FINGER_BASES = ((-5.0, 3.5, 1.0), (-3.0, 9.0, 0.0), (-0.5, 9.3, 0.0), (1.7, 8.7, 0.0), (3.5, 7.6, 0.5))
"""Base joints of thumb to little finger from the wrist: across, along, out of the palm."""
_PHALANGES = ((3.6, 3.0, 2.4), (4.2, 2.5, 2.1), (4.7, 2.9, 2.2), (4.3, 2.7, 2.2), (3.4, 2.0, 1.9))


def person(rng):
    """Return (20, 3) float64: joints of one person around its mid-hip at the origin, in the camera's axes."""
    size = rng.uniform(0.85, 1.1)
    turn = _rotation(yaw=rng.uniform(-75, 75), pitch=rng.uniform(-20, 20), roll=rng.normal(0, 22))
    right, up, forward = turn @ [-1.0, 0, 0], turn @ [0, -1.0, 0], turn @ [0, 0, -1.0]
    twist, bend = rng.uniform(-25, 25), rng.uniform(-20, 35)
    spine = _turned(up, right, -bend)
    across = _turned(right, spine, twist)
    front = _unit(np.cross(across, spine))
    front = front if front @ forward > 0 else -front

    joints = np.zeros((20, 3))
    neck = _TORSO * spine
    joints[2], joints[5] = neck + _SHOULDER * across, neck - _SHOULDER * across
    joints[8], joints[11] = _HIP * right, -_HIP * right
    joints[1] = (joints[2] + joints[5]) / 2
    joints[19] = (joints[2] + joints[5] + joints[8] + joints[11]) / 4
    for side, (shoulder, elbow, wrist) in ((1, (2, 3, 4)), (-1, (5, 6, 7))):
        upper = _limb(rng, side * across, -spine, front, (5, 165), (-30, 110))
        joints[elbow] = joints[shoulder] + _UPPER_ARM * upper
        joints[wrist] = joints[elbow] + _FOREARM * _bent(rng, upper, front, (0, 130))
    for side, (hip, knee, ankle) in ((1, (8, 9, 10)), (-1, (11, 12, 13))):
        thigh = _limb(rng, side * right, -up, forward, (0, 80), (-20, 110))
        joints[knee] = joints[hip] + _THIGH * thigh
        joints[ankle] = joints[knee] + _SHANK * _bent(rng, thigh, -forward, (0, 100))

    nod, shake = rng.uniform(-25, 30), rng.uniform(-45, 45)
    head_up = _turned(spine, across, -nod)
    head_front = _turned(_turned(front, across, -nod), head_up, shake)
    head_right = np.cross(head_front, head_up)
    head_right = head_right if head_right @ across > 0 else -head_right
    joints[0] = joints[1] + 17 * head_up + 10 * head_front
    joints[14], joints[15] = (joints[0] + 3.5 * head_up - 1.5 * head_front + side * 3.3 * head_right for side in (1, -1))
    joints[16], joints[17] = (joints[1] + 18.5 * head_up + 1.0 * head_front + side * 7.5 * head_right for side in (1, -1))
    joints[18] = joints[1] + 29 * head_up
    assert len(BODY.joints) == len(joints)
    return size * joints


def hand(rng):
    """Return (21, 3) float64: joints of one left hand around its wrist at the origin, in the camera's axes."""
    turn = _rotation(yaw=rng.uniform(-50, 50), pitch=rng.uniform(-50, 50), roll=rng.uniform(-60, 60))
    palm = turn @ np.diag([1.0, -1.0, -1.0])  # columns: across (thumb on the left in the picture), along the fingers, out of the palm
    joints = np.zeros((21, 3))
    for finger, (base, phalanges) in enumerate(zip(_FINGER_BASES, _PHALANGES)):
        at = np.array(base)
        spread = np.radians(rng.uniform(-10, 10) + (-45 if finger == 0 else 6 * (finger - 2)))
        direction = np.array([np.sin(spread), np.cos(spread), 0.0])
        curl = np.radians(rng.uniform(0, 60))
        joints[4 * finger + 4] = at
        for i, length in enumerate(phalanges):
            bent = direction * np.cos(curl * (i + 1) / 2) + np.array([0, 0, 1.0]) * np.sin(curl * (i + 1) / 2)
            at = at + length * bent
            joints[4 * finger + 3 - i] = at
    assert len(HAND.joints) == len(joints)
    return rng.uniform(0.85, 1.1) * joints @ palm.T


def _limb(rng, outward, down, front, away, around):
    """A direction `away` degrees from `down`, `around` degrees from `outward` towards `front`."""
    a, b = np.radians(rng.uniform(*away)), np.radians(rng.uniform(*around))
    return _unit(np.cos(a) * down + np.sin(a) * (np.cos(b) * outward + np.sin(b) * front))


def _bent(rng, direction, towards, degrees):
    """`direction` bent by a random angle towards roughly `towards`."""
    axis = np.cross(direction, _unit(towards + 0.5 * rng.normal(size=3)))
    return _turned(direction, _unit(axis), rng.uniform(*degrees))


def _rotation(yaw, pitch, roll):
    """Rotation in the camera's axes: about y, then x, then z, degrees."""
    y, x, z = np.eye(3)[1], np.eye(3)[0], np.eye(3)[2]
    return np.stack([_turned(_turned(_turned(e, y, yaw), x, pitch), z, roll) for e in np.eye(3)], axis=1)


def _turned(vector, axis, degrees):
    """Rodrigues' rotation of a vector about a unit axis."""
    a = np.radians(degrees)
    return vector * np.cos(a) + np.cross(axis, vector) * np.sin(a) + axis * (axis @ vector) * (1 - np.cos(a))


def _unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-9)
