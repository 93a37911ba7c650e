"""The versions that a run's numbers depend on."""

import importlib
import platform

import numpy as np
import tensorflow.compat.v1 as tf

import mtc


def versions():
    """Return {what: its version}."""
    found = {"python": platform.python_version(), "mtc": mtc.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    found["opencv"] = importlib.import_module("cv2").__version__
    return found
