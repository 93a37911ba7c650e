"""What the rest of the program knows of the device that it trains on, whatever kind it is."""

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, Optional

import tensorflow.compat.v1 as tf

from mtc.nets import convolution


@contextlib.contextmanager
def _nothing(*_):
    yield


def _unchanged(optimizer, scaling, ranks=1):
    return optimizer, None


@dataclass(frozen=True)
class Device:
    """A device, its session, and what it adds to a training graph."""

    kind: str
    """"cpu", "gpu" or "npu"."""
    name: str = ""
    """For people: which one, and how it computes."""
    session_config: Any = None
    """tf.ConfigProto."""
    convolve: Callable = convolution.convolve
    """The convolution of the training network, one of `mtc.nets.convolution`: the fastest here, in the precision that was asked for."""
    rounds_to: Optional[str] = None
    """"float16" or "bfloat16" where this CPU only rounds what goes into convolutions, as a device that computes in that type would."""
    in_float32: Callable = _nothing
    """Context manager: what is added to the graph within stays float32, whatever the device does to the rest."""
    wrap: Callable = _unchanged
    """wrap(optimizer, scaling, ranks) -> (tf.train.Optimizer for `ranks` processes, scale), in the order that the vendor asks for.

    scaling: `mtc.training.loss_scale.Scaling` or None. scale: the tensor of the loss scale where the device finds overflows and keeps the scale
    itself: its optimizer multiplies the loss, divides the gradient, and leaves steps out; None where that is up to the caller.
    """
    system: Callable = _nothing
    """system(session_config): context manager around all sessions on the device: starts what it needs and shuts it down."""
    steps_per_run: int = 1
    """How many steps a call of the session makes; for more than one, `looped`."""
    looped: Optional[Callable] = None
    """looped(session, op): the operation that runs op `steps_per_run` times in one call; made once all variables have their values."""
    before_first_step: str = ""
    """What to tell a person who is about to wait for the first step."""

    @property
    def sends_ahead(self):
        """Whether the next batch travels while this one is computed: worth a copy only where the device has a memory of its own."""
        return self.kind == "gpu"

    def place(self, replica):
        """Return the tf.device string of a replica, of several."""
        return "/{}:{}".format(self.kind, replica)

    @contextlib.contextmanager
    def session(self, graph):
        """Yield a tf.Session of a graph on the device."""
        with self.system(self.session_config), tf.Session(graph=graph, config=self.session_config) as session:
            yield session
