"""The convolution that the network is made of (stride 1, zero padding SAME, NHWC), with the gradient that is fastest where it runs.

TensorFlow 1.15 on a CPU computes convolutions forward near the rate of its matrix products, but their gradients at a third to a half of it.
Both gradients are convolutions too: by the input, of the upstream gradient with the kernel turned by 180 degrees and its channels
exchanged; by the kernel, of the input with the upstream gradient, where samples and channels change places. Written so they run twice as
fast there. TensorFlow 2 on a CPU (oneDNN), GPUs and NPUs have good kernels of their own.
"""

import tensorflow.compat.v1 as tf

_ONES = [1, 1, 1, 1]
_LARGE = 92 * 92
"""From so many pixels a map, samples are convolved one by one in the gradient by the kernel: their maps leave the cache in between anyway."""


def convolve(x, kernel):
    """Return the convolution of x (B, H, W, C) with an odd kernel (k, k, C, D): (B, H, W, D), float32."""
    return tf.nn.conv2d(x, kernel, _ONES, "SAME")


def convolve_by_forward_kernels(x, kernel):
    """As `convolve`, with gradients that are convolutions again. Static shapes."""

    @tf.custom_gradient
    def run(x, kernel):
        def gradients(upstream):
            turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
            return tf.nn.conv2d(upstream, turned, _ONES, "SAME"), _by_kernel(x, upstream, int(kernel.shape[0]))

        return tf.nn.conv2d(x, kernel, _ONES, "SAME"), gradients

    return run(x, kernel)


def fastest(device):
    """Return the function of these two for float32 on a kind of device ("cpu", "gpu", "npu")."""
    return convolve_by_forward_kernels if device == "cpu" and tf.__version__.startswith("1.") else convolve


def casting(convolve, dtype):
    """Return `convolve` computed in a 16-bit type ("bfloat16"), from and to float32; gradients likewise."""

    def cast(x, kernel):
        return tf.cast(convolve(tf.cast(x, dtype), tf.cast(kernel, dtype)), tf.float32)

    return cast


def rounding(convolve, dtype):
    """Return `convolve` as hardware with 16-bit inputs and float32 sums computes it.

    x, kernel and upstream gradient are rounded to a type ("float16", "bfloat16"), and infinite beyond its range.
    """

    def rounded(values):
        return tf.cast(tf.cast(values, dtype), tf.float32)

    @tf.custom_gradient
    def as_input(values):
        return rounded(values), tf.identity

    @tf.custom_gradient
    def as_output(values):
        return tf.identity(values), rounded

    return lambda x, kernel: as_output(convolve(as_input(x), as_input(tf.convert_to_tensor(kernel))))


def _by_kernel(x, upstream, size):
    """Return the gradient by the kernel, (size, size, C, D)."""
    batch, height, width, channels = x.shape.as_list()
    if size == 1:
        flat = [tf.reshape(values, [batch * height * width, int(values.shape[3])]) for values in (x, upstream)]
        return tf.matmul(flat[0], flat[1], transpose_a=True)[None, None]
    pad = [size // 2, size // 2]
    # Padded here and not by the convolution, whose inner loop is three times slower where it has to look for edges.
    padded = tf.pad(x, [[0, 0], pad, pad, [0, 0]])
    images, kernels = tf.transpose(padded, [3, 1, 2, 0]), tf.transpose(upstream, [1, 2, 0, 3])  # channels are samples now, and samples channels
    if batch > 1 and height * width >= _LARGE:
        parts = zip(tf.split(images, batch, axis=3), tf.split(kernels, batch, axis=2))
        gradient = tf.add_n([tf.nn.conv2d(image, kernel, _ONES, "VALID") for image, kernel in parts])
    else:
        gradient = tf.nn.conv2d(images, kernels, _ONES, "VALID")  # (C, size, size, D)
    return tf.transpose(gradient, [1, 2, 0, 3])
