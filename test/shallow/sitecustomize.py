"""What makes short trainings start quickly: a network of 14 layers instead of 36, no optimisation of its graph, hardly a measurement of the machine.

Most tests of what trains do not care for any of these. Programs that they start find this file by PYTHONPATH, before anything else is imported;
`test.shallow` does the same in the tests' own process. The layers that are left keep their names.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time

PAUSE = float(os.environ.get("SHALLOW_PAUSE", "0"))
"""Seconds after each step: where a training only has to go on until something else has happened."""


def _unoptimised(select):
    """Return `mtc.devices.cpu.select` with sessions that run graphs as they are, where no rewrite of them is asked for."""

    def selected(config, replicas):
        device = select(config, replicas)
        rewrites = device.session_config.graph_options.rewrite_options
        if not rewrites.ListFields():
            rewrites.disable_meta_optimizer = True
        return device

    return selected


def _paused(steps):
    """Return `mtc.training.steps.Steps` with a pause after each step."""

    class Paused(steps):
        def run(self, *arguments):
            super().run(*arguments)
            time.sleep(PAUSE)

    return Paused


_FRONT = (
    (("conv1_1", 64), ("conv1_2", 64)),
    (("conv2_1", 128),),
    (("conv3_1", 256), ("conv3_2", 256)),
    (("conv4_4_CPM", 128),),
)
VALUES = {
    "mtc.nets.cpm": {
        "FRONT": lambda _: _FRONT,
        "FIRST_STAGE": lambda _: ((1, 3, 128), (5, 1, None)),
        "LATER_STAGES": lambda _: ((1, 7, 128), (7, 1, None)),
    },
    "mtc.devices.peak": {"_SIDES": lambda sides: dict.fromkeys(sides, 256), "_ROUNDS": lambda _: 2},
    "mtc.devices.cpu": {"select": _unoptimised},
}
"""{module: {name: function that makes its value of the one it had}}."""
if PAUSE:
    VALUES["mtc.training.steps"] = {"Steps": _paused}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds those modules where they are, and sets the values after they have been executed."""

    def find_spec(self, name, path, target=None):
        if name not in VALUES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def executed(module):
            execute(module)
            for key, value in VALUES[name].items():
                setattr(module, key, value(getattr(module, key)))

        spec.loader.exec_module = executed
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Finder())
