"""The network of the reference: one tf.nn.conv2d, bias and ReLU after the other, NHWC, gradients by automatic differentiation."""

import tensorflow.compat.v1 as tf

_FRONT = (
    ("conv1_1", 64), ("conv1_2", 64), ("pool1", 0), ("conv2_1", 128), ("conv2_2", 128), ("pool2", 0), ("conv3_1", 256), ("conv3_2", 256),
    ("conv3_3", 256), ("conv3_4", 256), ("pool3", 0), ("conv4_1", 512), ("conv4_2", 512), ("conv4_3_CPM", 256), ("conv4_4_CPM", 128),
)  # fmt: skip
_FIRST_STAGE = ((3, 128), (3, 128), (3, 128), (1, 512))
_LATER_STAGE = ((7, 128), (7, 128), (7, 128), (7, 128), (7, 128), (1, 128))


def network(image, heat_channels, pof_channels, stages=6, width=1.0):
    """Return (heat-maps, POF), a list of (B, S/8, S/8, C) tensors each, first stage first. image: (B, S, S, 3) float32 in [-0.5, 0.5]."""

    def hidden(channels):
        return max(1, int(round(channels * width)))

    def branch(x, name, layers, outputs):
        for number, (kernel, channels) in enumerate(layers, 1):
            x = tf.nn.relu(_conv(x, name.format(number), kernel, hidden(channels)))
        return _conv(x, name.format(len(layers) + 1), 1, outputs)

    with tf.variable_scope("CPM"):
        x = image
        for name, channels in _FRONT:
            x = tf.nn.relu(_conv(x, name, 3, hidden(channels))) if channels else tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID", name=name)
        features = x
        pof = [branch(features, "conv5_{}_CPM_L1", _FIRST_STAGE, pof_channels)]
        heat = [branch(features, "conv5_{}_CPM_L2", _FIRST_STAGE, heat_channels)]
        for stage in range(2, stages + 1):
            x = tf.concat([pof[-1], heat[-1], features], 3, name="concat_stage{}".format(stage))
            pof.append(branch(x, "Mconv{{}}_stage{}_L1".format(stage), _LATER_STAGE, pof_channels))
            heat.append(branch(x, "Mconv{{}}_stage{}_L2".format(stage), _LATER_STAGE, heat_channels))
    return heat, pof


def _conv(x, name, kernel, outputs):
    inputs = int(x.shape[-1])
    limit = (6.0 / (kernel * kernel * (inputs + outputs))) ** 0.5
    with tf.variable_scope(name):
        weights = tf.get_variable("weights", [kernel, kernel, inputs, outputs], tf.float32, tf.random_uniform_initializer(-limit, limit, seed=1))
        biases = tf.get_variable("biases", [outputs], tf.float32, tf.constant_initializer(0.0001))
    return tf.nn.bias_add(tf.nn.conv2d(x, weights, [1, 1, 1, 1], "SAME"), biases)
