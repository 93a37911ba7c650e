"""The steps of a run, one module each: `python -m tasks.X`.

TensorFlow's own remarks are off unless asked for: that there is no CUDA on a machine without a GPU is no news, and what goes wrong is
raised as an exception.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
