"""Gradient checkpointing: a part of the network that keeps only what goes into it, and is computed again when its gradient is wanted.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost". The second pass has to come after the gradient that arrives, and
must be none that TensorFlow's graph optimiser takes for the first: both hold by control dependencies. A part whose maps are large goes
through its samples one after another, forward and backward, so that the maps of one sample at a time are there, whatever the batch.
"""

import tensorflow.compat.v1 as tf


def recomputed(chain, inputs, of_layer, samples_at_once=0):
    """Return chain(inputs, of_layer), with nothing inside kept for the gradient.

    inputs: list of (B, ...) tensors; of_layer: [(kernel, biases)]; chain: function of both that treats samples independently and reads no other
    variables. samples_at_once: how many samples to compute at a time, 0: all.
    """
    count, batch = len(inputs), int(inputs[0].shape[0])
    step = samples_at_once or batch
    assert batch % step == 0

    def part(tensors, start):
        """Samples of the inputs, and all weights."""
        some = tensors[:count] if step == batch else [x[start : start + step] for x in tensors[:count]]
        return [tf.identity(x) for x in list(some) + list(tensors[count:])]

    def run(tensors):
        return chain(tensors[:count], list(zip(tensors[count::2], tensors[count + 1 :: 2])))

    @tf.custom_gradient
    def whole(*tensors):
        answers = []
        for start in range(0, batch, step):
            with tf.control_dependencies(answers[-1:]):
                answers.append(run(part(tensors, start)))

        def gradients(upstream):
            found = []
            for start in range(0, batch, step):
                with tf.control_dependencies(found[-1] if found else [upstream]):
                    again = part(tensors, start)
                    found.append(tf.gradients(run(again), again, upstream[start : start + step]))
            by_input = [_joined([one[i] for one in found]) for i in range(count)]
            return by_input + [tf.add_n([one[i] for one in found]) for i in range(count, len(tensors))]

        return _joined(answers), gradients

    return whole(*(list(inputs) + [tensor for pair in of_layer for tensor in pair]))


def _joined(parts):
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)
