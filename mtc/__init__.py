"""Training library of Monocular Total Capture: network, targets, losses, data, checkpoints, storage, report.

Imports neither Airflow nor `tasks`. Runs on Python 3.7 with TensorFlow 1.15.0 and on Python 3.10+ with TensorFlow 2.x.
"""

__version__ = "0.1.0"
