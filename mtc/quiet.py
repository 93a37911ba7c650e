"""Imports TensorFlow without the remarks that newer versions print before they look at any setting (no CUDA here, oneDNN is on, twice)."""

import importlib
import os
import re
import sys
import tempfile

_REMARK = re.compile(rb"I\d{4} .*|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR")


def import_tensorflow():
    """Import TensorFlow and pass on all that it prints on stderr meanwhile, but for informational lines. Returns the module."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            return importlib.import_module("tensorflow")
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            printed.seek(0)
            for line in printed:
                if not _REMARK.fullmatch(line.rstrip()):
                    os.write(2, line)
