"""What a training graph shows of itself to whoever looks on: which operation belongs to which part of a step, and tensors worth a look.

It adds nothing to the graph. For `mtc.training.profiling` and `mtc.training.dumps`.
"""

import tensorflow.compat.v1 as tf

FORWARD, LOSS, GRADIENT, RANKS, OPTIMISER, REST = "forward", "loss and targets", "gradient", "sums over ranks", "optimiser", "rest"
"""The parts of a step."""


class Observed:
    """Filled while a graph is built."""

    def __init__(self):
        self.used = {}
        """{name of the batch's field: tensor} that the network computes with: placeholders, or what was staged. Fed, it takes the place of both."""
        self.activations = {}
        """{layer: its output}, in the order of computation; where the batch is divided, the parts in their order."""
        self.losses = None
        """`mtc.losses.Losses` of the batch."""
        self.gradients = {}
        """{variable's name: gradient of the batch's loss, times `factor`}."""
        self.factor = None
        """Scalar tensor of the loss scale, None for 1."""
        self._marks, self._outputs = [], []

    def mark(self, part):
        """Say that all operations of the default graph that belong to no part yet belong to this one."""
        self._marks.append((len(tf.get_default_graph().get_operations()), part))

    def output(self, layer, tensor):
        """Take a layer's output."""
        self._outputs.append((layer, tensor))

    def begin_forward(self):
        """Forget what the gradient of a part before has computed again."""
        self._outputs.clear()

    def end_forward(self):
        """Keep the outputs of a part of the batch."""
        self.mark(FORWARD)
        for layer, tensor in self._outputs:
            self.activations.setdefault(layer, []).append(tensor)

    def parts(self, graph):
        """Return {operation's name: part}; operations that are younger than the last mark are not there."""
        operations, found, begin = graph.get_operations(), {}, 0
        for end, part in self._marks:
            found.update((operation.name, part) for operation in operations[begin:end])
            begin = end
        return found
