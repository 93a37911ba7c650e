"""What ours is measured against: the reference trainer's shape, written anew from facts about it, in plain TensorFlow operations.

One person a sample is decoded, cropped and given full-resolution heat-maps and POF by a tf.data pipeline on the host; the network is a chain of
tf.nn.conv2d; the loss enlarges all maps of all stages to the crop's size; losses and summaries are fetched every step. Nothing here may use the
parts of `mtc` that are faster, so that a ratio stays one to the reference. Tests hold it to the samples and losses of ours.
"""
