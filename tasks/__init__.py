"""The steps of a run, one module each: `python -m tasks.X`.

TensorFlow's own remarks are off unless asked for: that there is no CUDA on a machine without a GPU is no news, and what goes wrong is raised
as an exception.
"""

import importlib.util
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_NEEDED = {
    "tensorflow": "tensorflow",
    "cv2": "opencv-python",
    "pycocotools": "pycocotools",
    "boto3": "boto3",
    "requests": "requests",
    "tqdm": "tqdm",
    "yaml": "PyYAML",
}
"""Modules that every step imports sooner or later, and the packages that bring them."""

if sys.argv[:1] == ["-m"]:  # this package is imported on the way to a command: say at once what a traceback would say badly
    _missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if _missing:
        print(
            'error: {} lacks {}: use the training interpreter, "$MTC_PYTHON" after `source scripts/env.sh` (made by `make setup`), '
            "or pip install -r requirements.txt".format(sys.executable, ", ".join(_missing)),
            file=sys.stderr,
        )
        sys.exit(2)
