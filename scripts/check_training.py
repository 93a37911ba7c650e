"""Imports the training stack and prints its versions in one line: the set-up's proof that an environment works.

Run with the interpreter to check; it must not need anything of the project, only what the project needs. Python 3.7 and newer.
"""

import importlib
import platform

IMPORTS = ("boto3", "cv2", "jinja2", "matplotlib", "numpy", "pycocotools.mask", "requests", "tqdm", "yaml", "tensorflow.compat.v1")


def main():
    """Import everything; a failed import ends with its own message."""
    modules = {name: importlib.import_module(name) for name in IMPORTS}
    tensorflow, cv2, numpy = modules["tensorflow.compat.v1"], modules["cv2"], modules["numpy"]
    print(
        "Python {}, TensorFlow {}, numpy {}, OpenCV {}".format(platform.python_version(), tensorflow.__version__, numpy.__version__, cv2.__version__)
    )


if __name__ == "__main__":
    main()
