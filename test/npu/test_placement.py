"""What the list of the 910's operators says of real graphs."""

import pytest
import tensorflow.compat.v1 as tf

from test.npu import placement


def found(fetches, feeds=()):
    return {(fall.type, fall.where) for fall in placement.falls(tf.get_default_graph(), fetches, feeds)}


@pytest.fixture(autouse=True)
def _graph():
    with tf.Graph().as_default():
        tf.set_random_seed(1)  # a deterministic training that ran before in this process has made TensorFlow 2 ask for one
        yield


def numbers(*shape, dtype=tf.float32):
    return tf.placeholder(dtype, shape)


def test_a_training_step_of_a_convolution_stays_on_the_cores():
    kernel = tf.get_variable("kernel", [3, 3, 3, 16], use_resource=True)
    bias = tf.get_variable("bias", [16], use_resource=True)
    maps = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(numbers(2, 8, 8, 3), kernel, strides=[1, 1, 1, 1], padding="SAME"), bias))
    maps = tf.nn.max_pool(maps, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
    loss = tf.reduce_mean(tf.square(tf.image.resize_bilinear(maps, [8, 8]))) + tf.reduce_sum(tf.where(maps > 0, maps, -maps))
    train = tf.train.AdamOptimizer(1e-3).minimize(loss)
    assert found([train, loss]) == set()


@pytest.mark.parametrize(
    ("make", "fall"),
    [
        (lambda: numbers(2, dtype=tf.int64) + 1, ("AddV2", "aicpu")),
        (lambda: tf.cast(numbers(2), tf.float64), ("Cast", "unsupported")),
        (lambda: tf.where(numbers(2) > 0), ("Where", "aicpu")),
        (lambda: tf.image.crop_and_resize(numbers(1, 8, 8, 3), numbers(2, 4), tf.constant([0, 0]), [4, 4]), ("CropAndResize", "aicpu")),
        (lambda: tf.image.resize_bicubic(numbers(1, 8, 8, 3), [16, 16]), ("ResizeBicubic", "tf_kernel")),
        (lambda: tf.argmax(numbers(2, 3)), ("ArgMax", "tf_kernel")),
        (lambda: tf.cumsum(numbers(3), axis=numbers(dtype=tf.int32)), ("Cumsum", "aicpu")),
        (lambda: tf.pad(numbers(3, dtype=tf.uint8), [[1, 1]]), ("Pad", "tf_kernel")),
        (lambda: tf.nn.top_k(numbers(9)).values, ("TopKV2", "tf_kernel")),
        (lambda: tf.is_finite(numbers(2)), ("IsFinite", "tf_kernel")),
        (lambda: tf.numpy_function(lambda x: x, [numbers(2)], tf.float32), ("PyFunc", "host")),
        (lambda: tf.summary.scalar("x", numbers()), ("ScalarSummary", "host")),
        (lambda: tf.linalg.det(numbers(2, 2)), ("MatrixDeterminant", "unknown")),
        (lambda: numbers(None, 2) + 1.0, ("Placeholder", "dynamic")),
        (lambda: tf.reshape(numbers(4), numbers(2, dtype=tf.int32)), ("Reshape", "dynamic")),
    ],
)
def test_what_leaves_the_cores_is_found(make, fall):
    assert fall in {(kind.replace("Add", "AddV2") if kind == "Add" else kind, where) for kind, where in found(make())}


def test_the_gradient_of_a_bicubic_resize_is_found():
    x = numbers(1, 8, 8, 3)
    assert ("ResizeBicubicGrad", "tf_kernel") in found(tf.gradients(tf.image.resize_bicubic(x, [16, 16]), x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.argmax(numbers(2, 3), output_type=tf.int32),
        lambda: tf.cumsum(numbers(3), axis=0),
        lambda: tf.gradients(numbers(4, 1) * tf.identity(numbers(1, 5)), tf.get_default_graph().get_tensor_by_name("Placeholder:0")),
        lambda: tf.reshape(numbers(4, 2), tf.stack([tf.shape(numbers(4, 2))[0] * 2, 1])),
        lambda: tf.tile(numbers(1, 2), [3, 1]) + tf.cast(tf.range(6), tf.float32)[:2],
        lambda: tf.constant(3, tf.int64) * 2,
    ],
)
def test_what_stays_or_is_folded_passes(make):
    assert found(make()) == set()


def test_a_feed_cuts_off_what_lies_before_it():
    bad = tf.image.resize_bicubic(numbers(1, 8, 8, 3), [16, 16])
    assert found(bad + 1.0)
    assert found(bad + 1.0, feeds=[bad]) == set()


def test_data_pipelines_are_on_the_host_where_they_belong():
    data = tf.data.Dataset.range(8).map(lambda n: tf.cast(n, tf.float64)).batch(2, drop_remainder=True).map(lambda n: tf.cast(n, tf.float32))
    iterator = tf.data.make_initializable_iterator(data)
    assert found(iterator.initializer) == set()
    assert found(tf.identity(iterator.get_next())) == set()


def test_branches_of_version_2_are_looked_into():
    from tensorflow.python.ops import cond_v2

    x = numbers(1, 8, 8, 3)
    flag = numbers(dtype=tf.bool)
    made = cond_v2.cond_v2(flag, lambda: tf.image.resize_bicubic(x, [8, 8]), lambda: tf.identity(x), "branch")
    assert ("ResizeBicubic", "tf_kernel") in found(made)


def test_every_group_of_the_list_says_where_and_how_sure():
    table = placement.table()
    for group in table["groups"]:
        assert group["where"] in table["where"]
        assert group["sure"] in "ABC"
        assert group["where"] != "aicore" or {"dtypes", "otherwise"} <= set(group), group["ops"]
