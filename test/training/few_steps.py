"""Steps of a tiny network in this process, without a run around them."""

import tensorflow.compat.v1 as tf

from mtc.data import pipeline, readers
from mtc.skeleton import BODY
from mtc.training import graph
from mtc.training.steps import Steps

TINY = ("model.stages=1", "model.crop=32", "model.width=0.02", "train.batch_size=2")


class FewSteps:
    """A session that makes steps of batches, some of them spoiled: white all over."""

    def __init__(self, config, training, session_config, spoiled=(), skipped=0):
        """training: the `TrainingGraph` of the config."""
        self.config, self.training = config, training
        self.session = tf.Session(graph=training.graph, config=session_config)
        training.set_variables(self.session, graph.initial_values(training, config))
        self.pipeline = pipeline.Pipeline(readers.training(config), config, BODY)
        self.steps = Steps(self.session, training, self.batches(spoiled), last=1000, skipped=skipped)

    def batches(self, spoiled):
        for number, batch in enumerate(self.pipeline, start=1):
            if number in spoiled:
                batch.image[:] = 255
            yield batch

    def run(self, *numbers):
        for number in numbers:
            self.steps.run(number, [1e-3])
        return self.steps.done()

    def values(self):
        return self.session.run(self.training.values)

    def close(self):
        self.session.close()
        self.pipeline.__exit__()
