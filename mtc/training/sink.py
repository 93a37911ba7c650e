"""Several steps in one call of the session, for devices that loop by themselves: they take batches from a dataset and keep count on the device.

A call makes n steps: nothing can be fed between them, so learning rates are laid down for all of them before, and the row of the table of losses is
counted on. Batches are handed to the dataset once all n are in hand: a sample that cannot be read ends the run between two calls. Source:
facts/ascend.md, section 5 (iterations_per_loop).
"""

import queue

import numpy as np
import tensorflow.compat.v1 as tf


class Sink:
    """The part of a training graph that takes the place of its placeholders. Made while the graph is built."""

    def __init__(self, inputs, rows):
        """inputs: {name: placeholder of a batch's field}; rows: of the table of losses."""
        self._queue, self._rows = queue.Queue(), rows
        types = {name: tensor.dtype for name, tensor in inputs.items()}
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        dataset = tf.data.Dataset.from_generator(self._batches, types, shapes)
        iterator = tf.data.make_initializable_iterator(dataset)
        self.start = iterator.initializer
        """Operation that starts the dataset: once, in a call of its own."""
        self.inputs = {name: tf.reshape(tensor, shapes[name]) for name, tensor in iterator.get_next().items()}
        """{name: tensor of the batch's field}, static shapes."""
        self._names = sorted(inputs)
        local = {"trainable": False, "collections": [tf.GraphKeys.LOCAL_VARIABLES]}
        self._rates = tf.Variable(tf.zeros([rows]), name="learning_rates", **local)
        self._place = tf.Variable(tf.zeros([], tf.int32), name="next_place", **local)
        self.variables = [self._rates, self._place]
        """What is of a session only."""
        self.place = tf.identity(self._place)
        """() int32: row of the table that the step's losses go to."""
        self.rate = tf.reduce_sum(tf.where_v2(tf.equal(tf.range(rows), self.place), self._rates, tf.zeros([rows])))
        """() float32: the step's learning rate."""
        self._given_rates, self._given_place = tf.placeholder(tf.float32, [rows]), tf.placeholder(tf.int32, [])
        self._lay_down = tf.group(tf.assign(self._rates, self._given_rates), tf.assign(self._place, self._given_place))

    def count_on(self, after):
        """Return the operation that moves on to the next row, once the operations `after` are through."""
        with tf.control_dependencies(after):
            return tf.assign_add(self._place, 1).op

    def hand_over(self, session, batches, rates, place):
        """Lay down what the next call takes: a step for each of the `mtc.data.pipeline.Batch`es, with its rate, its losses from row `place` on."""
        laid = np.zeros(self._rows, np.float32)
        laid[place : place + len(rates)] = rates
        session.run(self._lay_down, {self._given_rates: laid, self._given_place: place})
        for batch in batches:
            self._queue.put({name: getattr(batch, name) for name in self._names})

    def close(self):
        """Let the dataset end: it may wait for a batch that does not come."""
        self._queue.put(None)

    def _batches(self):
        yield from iter(self._queue.get, None)
