"""One rank of a job that trains with gradients averaged over ranks; prints what it found as JSON. Started by test_ranks.py."""

import json

import tensorflow.compat.v1 as tf
from npu_bridge.estimator import npu_ops
from npu_bridge.hccl import hccl_ops
from npu_bridge.npu_init import (
    ExponentialUpdateLossScaleManager,
    NPULossScaleOptimizer,
    get_rank_id,
    get_rank_size,
    npu_config_proto,
    npu_distributed_optimizer_wrapper,
)

VARIABLES = 30


def main():
    found = {}
    with tf.Graph().as_default() as graph, tf.Session(config=npu_config_proto(tf.ConfigProto())) as session:
        shutdown = npu_ops.shutdown_system()
        session.run(npu_ops.initialize_system())
        rank, size = get_rank_id(), get_rank_size()
        found["rank"], found["size"] = rank, size
        data = tf.data.Dataset.range(1, 1000).shard(size, rank).map(lambda n: tf.cast(n, tf.float32)).batch(2, drop_remainder=True)
        iterator = tf.data.make_initializable_iterator(data)
        value = iterator.get_next()
        value.set_shape([2])
        variables = [tf.get_variable("v{}".format(i), initializer=tf.fill([3], 1.0 + i), use_resource=True) for i in range(VARIABLES)]
        own = tf.placeholder(tf.float32, [2, 2], "own")
        found_ops = {
            "gather": hccl_ops.allgather(own, size),
            "broadcast": hccl_ops.broadcast([own, own + 1], 1),
            "scatter": hccl_ops.reduce_scatter(own, "sum", size),
            "max": hccl_ops.allreduce(own, "max"),
            "reduce": hccl_ops.reduce(own, "sum", 1),
        }
        loss = tf.add_n([tf.reduce_sum(variable) for variable in variables]) * tf.reduce_mean(value)
        manager = ExponentialUpdateLossScaleManager(1024.0, 1000, 1, 2, 0.5)
        optimizer = NPULossScaleOptimizer(npu_distributed_optimizer_wrapper(tf.train.GradientDescentOptimizer(0.5)), manager, is_distributed=True)
        step = tf.train.get_or_create_global_step()
        train = optimizer.apply_gradients(optimizer.compute_gradients(loss), step)
        session.run(tf.global_variables_initializer())
        session.run(iterator.initializer)
        found.update((name, [part.tolist() for part in one] if isinstance(one, list) else one.tolist())
                     for name, one in session.run(found_ops, {own: [[rank, 1.0], [2.0, 3.0 * rank]]}).items())  # fmt: skip
        found["values"], found["scales"] = [], []
        for _ in range(4):
            session.run(train)
            first, last, scale = session.run([variables[0], variables[-1], manager.get_loss_scale()])
            found["values"].append([first.tolist(), last.tolist()])
            found["scales"].append(float(scale))
        found["step"] = int(session.run(step))
        session.run(shutdown)
        found["nodes"] = [operation.name for operation in graph.get_operations() if "Allreduce/HcomAllReduce" in operation.name]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
