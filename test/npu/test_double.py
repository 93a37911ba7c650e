"""The contract of the double of npu_bridge and hccl (facts §10): what it does, refuses, and reports. Real graphs in this process; a world of one."""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

pytestmark = pytest.mark.first

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def rules(double):
    return {entry["rule"] for entry in double.lints()}


def with_options(npu, **options):
    """A ConfigProto for the NPU: with_options(npu, precision_mode=("s", b"allow_mix_precision"))."""
    config = npu.npu_config_proto(tf.ConfigProto())
    entry = config.graph_options.rewrite_options.custom_optimizers[0]
    for key, (kind, value) in options.items():
        setattr(entry.parameter_map[key], kind, value)
    return config


def first_run(npu, **options):
    with tf.Session(config=with_options(npu, **options)) as session:
        return session.run(tf.constant(1.0))


# ------------------------------------------------------------------ where it is


def test_it_is_there_only_for_who_puts_its_folder_on_the_path(npu_double):
    import npu_bridge

    assert npu_bridge.__test_double__ is True
    assert npu_bridge.__version__ == "v1.15.0"


def test_without_its_folder_there_is_no_npu_bridge():
    assert "npu_bridge" not in sys.modules
    assert importlib.util.find_spec("npu_bridge") is None
    assert importlib.util.find_spec("hccl") is None
    assert not hasattr(tf.Session.__init__, "__wrapped__")
    for folder in ("mtc", "tasks", "dags", "plugins", "scripts", "deploy"):
        for path, _, names in os.walk(os.path.join(ROOT, folder)):
            for name in names:
                if name.endswith((".py", ".sh", ".yaml", ".toml")):
                    with open(os.path.join(path, name), encoding="utf-8") as f:
                        content = f.read()
                    assert "npu_double" not in content, name
                    assert "__test_double__" not in content, name


def test_a_star_import_brings_what_users_rely_on(npu):
    names = (
        "NPURunConfig ProfilingConfig MemoryConfig DumpConfig DynamicInputConfig NPUEstimator NPUEstimatorSpec NPUCheckpointSaverHook "
        "NPUOutputTensorHook NPUBroadcastGlobalVariablesHook SetIterationsVarHook TellMeStepOrLossHook NPUDistributedOptimizer "
        "KerasDistributeOptimizer decorator_tf_session npu_distributed_optimizer_wrapper NPUOptimizer npu_allreduce "
        "NPULossScaleOptimizer FixedLossScaleManager ExponentialUpdateLossScaleManager "
        "NPUBroadcastGlobalVariablesCallback npu_ops npu_rnn npu_scope keras_to_npu npu_strategy util npu_plugin hccl_ops profiler npu_cpu_ops "
        "scoped_graph_manager npu_unary_ops config_pb2 rewriter_config_pb2 RewriterConfig session session_run_hook backend tf os "
        "create_group destroy_group "
        "get_rank_size get_local_rank_size get_rank_id get_local_rank_id get_world_rank_from_group_rank get_group_rank_from_world_rank "
        "set_split_strategy_by_idx set_split_strategy_by_size experimental_options npu_hooks_append npu_callbacks_append "
        "npu_config_proto npu_graph_options "
        "npu_optimizer_options npu_run_config_init set_keras_session_npu_config init_resource shutdown_resource close_session get_npu_rank_id "
        "get_npu_local_rank_id get_npu_rank_size get_npu_local_rank_size NpuEmptyHook npu_keras_optimizer npu_tf_optimizer npu_clear_session"
    )
    assert [name for name in names.split() if not hasattr(npu, name)] == []


# ------------------------------------------------------------------ sessions and their configuration


def test_importing_npu_init_makes_every_session_one_of_the_npu(npu_double, npu, graph):
    with tf.Session() as session:
        session.run(tf.constant(1.0))
    described = npu_double.last("session")
    assert described["npu"]
    assert described["config"]["custom_optimizers"][0]["name"] == "NpuOptimizer"
    assert (described["config"]["remapping"], described["config"]["memory_optimization"]) == ("OFF", "OFF")
    assert described["config"]["allow_soft_placement"]
    assert npu_double.last("session.run")["device"] == "npu"


def test_the_edition_of_2021_leaves_sessions_alone(npu_double, monkeypatch, graph):
    monkeypatch.setenv("NPU_DOUBLE_ERA", "2021")
    npu = importlib.import_module("npu_bridge.npu_init")
    with tf.Session() as session:
        session.run(tf.constant(1.0))
    assert not npu_double.last("session")["npu"]
    assert not hasattr(npu, "npu_config_proto")


def test_a_session_made_before_the_import_is_reported(npu_double, graph):
    with tf.Session():
        importlib.import_module("npu_bridge.npu_init")
        assert "late-import" in rules(npu_double)


def test_a_session_stays_on_the_host_only_by_its_own_word(npu_double, npu, graph):
    first_run(npu, use_off_line=("b", False))
    assert npu_double.last("session.run")["device"] == "host"


def test_npu_config_proto_changes_what_it_is_given_and_minds_who_added_the_entry(npu_double, npu):
    config = tf.ConfigProto(log_device_placement=True)
    assert npu.npu_config_proto(config) is config
    options = config.graph_options.rewrite_options
    assert [entry.name for entry in options.custom_optimizers] == ["NpuOptimizer"]
    assert (options.remapping, options.memory_optimization) == (RewriterConfig.OFF, RewriterConfig.OFF)
    assert not config.log_device_placement
    assert "memory-optimization" not in rules(npu_double)
    mine = tf.ConfigProto()
    mine.graph_options.rewrite_options.custom_optimizers.add().name = "NpuOptimizer"
    npu.npu_config_proto(mine)
    assert mine.graph_options.rewrite_options.memory_optimization == RewriterConfig.DEFAULT_MEM_OPT
    assert "memory-optimization" in rules(npu_double)
    typo = tf.ConfigProto()
    typo.graph_options.rewrite_options.custom_optimizers.add().name = "NPUOptimizer"
    npu.npu_config_proto(typo)
    assert "name-typo" in rules(npu_double)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision_mode": ("s", b"mixed")}, "precision_mode='mixed' is not allowed"),
        ({"precision_mode": ("b", True)}, "precision_mode='' is not allowed"),
        ({"precision_mode": ("s", b"force_fp32"), "precision_mode_v2": ("s", b"fp16")}, "both set"),
        ({"precision_mode": ("s", b"allow_mix_precision_bf16")}, "not for the 910"),
        ({"modify_mixlist": ("s", b"list.json")}, "modify_mixlist without a mode of mixed precision"),
        ({"enable_dump": ("b", True), "dump_path": ("s", b"/does/not/exist")}, "dump_path='/does/not/exist'"),
        ({"jit_compile": ("b", True)}, "jit_compile has to be a string"),
        ({"aoe_mode": ("s", b"3")}, "aoe_mode='3'"),
        ({"hccl_timeout": ("i", 17341)}, "hccl_timeout=17341"),
        ({"enable_exception_dump": ("i", 3)}, "enable_exception_dump=3"),
    ],
)
def test_a_bad_option_fails_the_first_run(options, message, npu, graph):
    with pytest.raises(tf.errors.InternalError, match=message):
        first_run(npu, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph_run_mode": ("i", 2)}, "graph_run_mode=2"),
        ({"iterations_per_loop": ("i", 0)}, "iterations_per_loop=0"),
        ({"optypelist_for_implmode": ("s", b"Pow")}, "optypelist_for_implmode without"),
        ({"dynamic_dims": ("s", b"1;2")}, "go together"),
        ({"variable_placement": ("s", b"Nowhere")}, "variable_placement='Nowhere'"),
        ({"local_rank_id": ("i", 8)}, "local_rank_id=8"),
        ({"session_device_id": ("i", -2)}, "session_device_id=-2"),
        ({"dump_mode": ("s", b"both")}, "dump_mode='both'"),
    ],
)
def test_a_very_bad_option_would_end_the_process(options, message, npu_double, npu, graph):
    with pytest.raises(npu_double.Aborted, match=message):
        first_run(npu, **options)
    assert issubclass(npu_double.Aborted, SystemExit)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"min_group_size": ("b", True)}, "unknown-option"),
        ({"hcom_parallel": ("i", 1)}, "wrong-kind"),
        ({"graph_memory_max_size": ("s", b"1")}, "no-effect"),
        ({"frozen_variable": ("b", True)}, "inference-option"),
        ({"precision_mode": ("s", b"force_fp16")}, "fp16-training"),
        ({"iterations_per_loop": ("i", 10)}, "loop-without-sink"),
        ({"iterations_per_loop": ("i", 10), "mix_compile_mode": ("b", True)}, "loop-in-mix-mode"),
    ],
)
def test_what_the_real_stack_takes_in_silence_is_reported(options, rule, npu_double, npu, graph):
    assert rule not in rules(npu_double)
    first_run(npu, **options)
    assert rule in rules(npu_double)


def test_options_in_force_are_recorded(npu_double, npu, graph):
    first_run(npu, precision_mode=("s", b"allow_mix_precision"), hcom_parallel=("i", 1))
    values = npu_double.last("options")["values"]
    assert values["precision_mode"] == "allow_mix_precision"
    assert values["hcom_parallel"] is False  # stored in .i, read from .b
    assert values["enable_data_pre_proc"] is False


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ('{"black-list": {"to-add": ["ReduceSumD"]}, "white-list": {"to-add": ["ReduceSumD", "Sum"]}}', {"mixlist-both", "mixlist-name"}),
        ('{"black-list": {"to-add": ["Add"]}} // why', None),
    ],
)
def test_the_lists_of_mixed_precision_are_read(content, outcome, npu_double, npu, graph, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(content)
    given = {"precision_mode": ("s", b"allow_mix_precision"), "modify_mixlist": ("s", str(path).encode())}
    if outcome is None:
        with pytest.raises(tf.errors.InternalError, match="modify_mixlist"):
            first_run(npu, **given)
    else:
        first_run(npu, **given)
        assert outcome <= rules(npu_double)


# ------------------------------------------------------------------ HCCL


def test_ranks_are_known_only_after_initialize_system_has_run(npu_double, npu, graph):
    init, shutdown = npu.npu_ops.initialize_system(), npu.npu_ops.shutdown_system()
    with tf.Session() as session:
        with pytest.raises(ValueError, match=r"get rank id error\. ret\["):
            npu.get_rank_id()
        session.run(init)
        assert (npu.get_rank_id(), npu.get_rank_size(), npu.get_local_rank_id(), npu.get_local_rank_size()) == (0, 1, 0, 1)
        assert npu_double.last("initialize_system.run")["phase"] == "init_run"
        session.run(init)
        assert "initialized-twice" in rules(npu_double)
        session.run(shutdown)
        with pytest.raises(ValueError, match="get rank size error"):
            npu.get_rank_size()
    assert "query-after-end" in rules(npu_double)
    assert npu_double.last("hccl.get_rank_id")["result"] == 0
    assert npu_double.last("shutdown_system.run")["phase"] in ("hccl_ready", "training")


def test_closing_the_session_that_initialised_hccl_takes_it_down(npu, graph):
    session, _ = npu.init_resource()
    assert (npu.get_npu_rank_id(), npu.get_npu_rank_size()) == (0, 1)
    npu.close_session(session)
    with pytest.raises(ValueError, match="get rank id error"):
        npu.get_rank_id()


def test_stored_ranks_are_a_name_error_before_init_resource(npu):
    with pytest.raises(NameError):
        npu.get_npu_rank_id()


def test_groups_and_splits_are_checked(npu_double, npu, graph):
    npu_double.set_world(1, 4)
    with tf.Session() as session:
        session.run(npu.npu_ops.initialize_system())
        npu.create_group("half", 2, [1, 3])
        assert (npu.get_rank_size("half"), npu.get_rank_id("half"), npu.get_world_rank_from_group_rank("half", 1)) == (2, 0, 3)
        assert npu.get_group_rank_from_world_rank(3, "half") == 1
        for arguments in (
            ("half", 2, [0, 1]),
            ("hccl_world_group", 2, [0, 1]),
            ("x" * 128, 1, [0]),
            ("y", 3, [0, 1]),
            ("y", 1, ["0"]),
            ("y", 3, [0, 1, 2]),
        ):
            with pytest.raises(ValueError, match="."):
                npu.create_group(*arguments)
        npu.destroy_group("half")
        with pytest.raises(ValueError, match="half"):
            npu.get_rank_size("half")
        npu.set_split_strategy_by_idx([8, 56, 205])
        npu.set_split_strategy_by_size([90, 10])
        for bad in ([], [5, 5], [-1], "8", [1.5]):
            with pytest.raises(ValueError, match="idxList"):
                npu.set_split_strategy_by_idx(bad)
        with pytest.raises(ValueError, match="sum is 99, not 100"):
            npu.set_split_strategy_by_size([90, 9])
        npu.set_split_strategy_by_size([10, 10, 10, 10, 10, 10, 10, 10, 20])
        assert "split-segments" in rules(npu_double)


def test_alone_collective_operations_change_nothing(npu_double, npu, graph):
    ops, x = npu.hccl_ops, tf.constant([[1.0, 2.0], [3.0, 4.0]])
    made = [ops.allreduce(x, "sum"), ops.allgather(x, 1), ops.broadcast([x], 0)[0], ops.reduce_scatter(x, "sum", 1), ops.reduce(x, "max", 0)]
    assert [one.op.get_attr("_npu_op") for one in made] == [b"HcomAllReduce", b"HcomAllGather", b"HcomBroadcast", b"HcomReduceScatter", b"HcomReduce"]
    with tf.Session() as session:
        for value in session.run(made):
            assert value.tolist() == [[1, 2], [3, 4]]
    entry = npu_double.last("hccl_ops.HcomAllReduce")
    assert (entry["dtype"], entry["shape"], entry["reduction"], entry["fusion"], entry["group"]) == ("float32", [2, 2], "sum", 1, "hccl_world_group")


def test_a_scripted_world_has_the_numbers_of_its_peers(npu_double, npu, graph):
    npu_double.set_world(1, 3, peers=lambda name, own: [own * 10, own * 100])
    x = tf.constant([1.0, 2.0])
    total = npu.hccl_ops.allreduce(x * 1.0, "sum")
    (slope,) = tf.gradients(total, x)
    gathered = npu.hccl_ops.allgather(x, 3)
    assert gathered.shape.as_list() == [6]
    with tf.Session() as session:
        values = session.run([total, gathered, npu.hccl_ops.broadcast([x], 2)[0], npu.npu_allreduce(x), slope])
    assert [value.tolist() for value in values] == [[111, 222], [10, 20, 1, 2, 100, 200], [100, 200], [37, 74], [111, 111]]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda ops: ops.allreduce(tf.zeros([2]), "mean"), ValueError),
        (lambda ops: ops.allreduce(tf.zeros([2], tf.int16), "sum"), TypeError),
        (lambda ops: ops.allreduce(tf.zeros([2], tf.float64), "sum"), TypeError),
        (lambda ops: ops.allreduce(tf.zeros([2]), "sum", fusion=3), ValueError),
        (lambda ops: ops.broadcast(tf.zeros([2]), 0), TypeError),
        (lambda ops: ops.reduce_scatter(tf.zeros([3]), "sum", 2), ValueError),
    ],
)
def test_wrong_collective_operations_are_refused(make, error, npu, graph):
    with pytest.raises(error, match="."):
        make(npu.hccl_ops)


def test_odd_collective_operations_are_reported(npu_double, npu, graph):
    npu.hccl_ops.allreduce(tf.get_variable("v", initializer=1.0), "sum")
    npu.hccl_ops.allreduce(tf.zeros([2]), "max", fusion=1)
    npu.hccl_ops.broadcast([tf.zeros([2])], 0, fusion=1)
    assert {"allreduce-of-variable", "fusion-not-sum", "broadcast-fusion"} <= rules(npu_double)


def test_eager_execution_is_refused(npu):
    if not tf.executing_eagerly():
        pytest.skip("this TensorFlow is in graph mode")
    with pytest.raises(RuntimeError, match="eager"):
        npu.npu_ops.initialize_system()


# ------------------------------------------------------------------ several iterations a run


def counting():
    """A training step that adds the next number of a data set to a variable; (step, sum, loss, initializers)."""
    iterator = tf.data.make_initializable_iterator(tf.data.Dataset.range(1, 11))
    value = tf.cast(iterator.get_next(), tf.float32)
    step, total = tf.train.get_or_create_global_step(), tf.get_variable("total", initializer=0.0, use_resource=True)
    with tf.control_dependencies([total.assign_add(value)]):
        train = tf.assign_add(step, 1)
    return train.op, step, total, value, iterator.initializer


@pytest.mark.parametrize("apart", [False, True])
def test_one_run_makes_many_iterations(apart, npu_double, npu, graph):
    train, step, total, value, start = counting()
    config = with_options(npu, iterations_per_loop=("i", 4), enable_data_pre_proc=("b", True))
    with tf.Session(config=config) as session:
        if apart:
            loop = npu.util.IterationPerLoop()
            looped = loop.create_iteration_per_loop_var(train)
            graph.finalize()
        session.run([variable.initializer for variable in (step, total)]) if apart else session.run(tf.global_variables_initializer())
        session.run(start)
        if apart:
            loop.load_iteration_per_loop_var(session, 4)
        else:
            looped = npu.util.set_iteration_per_loop(session, train, 4)
        assert (looped.name, looped.type) == ("IterationOp", "NoOp")
        _, last = session.run([looped, value])
        assert last == 4  # of the last iteration
        assert npu_double.last("session.run")["loops"] == 4
        assert (session.run(step), session.run(total)) == (4, 10)
        session.run(looped)
        assert (session.run(step), session.run(total)) == (8, 36)
        variables = {variable.op.name: session.run(variable) for variable in tf.local_variables()}
        with pytest.raises(tf.errors.OutOfRangeError):
            session.run(looped)
    assert variables == {"npu_runconfig/iterations_per_loop": 3, "npu_runconfig/loop_cond": 0, "npu_runconfig/zero": 0, "npu_runconfig/one": 1}
    assert all(variable.dtype.base_dtype == tf.int64 for variable in tf.local_variables())
    assert not {"loop-mismatch", "loop-with-feeds", "loop-without-sink"} & rules(npu_double)


def test_loops_that_cannot_work_are_reported_or_end_the_process(npu_double, npu, graph):
    value = tf.placeholder(tf.float32, [])
    total = tf.get_variable("total", initializer=0.0, use_resource=True)
    train = total.assign_add(value)
    train = train if isinstance(train, tf.Operation) else train.op
    with tf.Session(config=with_options(npu, iterations_per_loop=("i", 2))) as session:
        looped = npu.util.set_iteration_per_loop(session, train, 3)
        session.run(tf.global_variables_initializer())
        session.run(looped, {value: 1.0})
        assert session.run(total) == 3
        assert {"loop-mismatch", "loop-with-feeds", "loop-without-sink"} <= rules(npu_double)
        once = tf.data.make_one_shot_iterator(tf.data.Dataset.range(9)).get_next()
        with tf.control_dependencies([looped]), pytest.raises(npu_double.Aborted, match="OneShotIterator"):
            session.run(tf.identity(once))


@pytest.mark.parametrize(("given", "error"), [((0,), ValueError), ((1.5,), TypeError), ((True,), TypeError)])
def test_a_wrong_number_of_iterations_is_refused(given, error, npu, graph):
    with tf.Session() as session, pytest.raises(error):  # noqa: PT011 - the kind is the statement
        npu.util.set_iteration_per_loop(session, tf.no_op(), *given)
    with tf.Session() as session, pytest.raises(ValueError, match="expected an Operation"):
        npu.util.set_iteration_per_loop(session, tf.zeros([2]), 2)
    with tf.Session() as session:
        nothing = tf.no_op()
        assert npu.util.set_iteration_per_loop(session, nothing, 1) is nothing


# ------------------------------------------------------------------ loss scale and optimizers


def scaled(npu, manager, wrap=lambda optimizer: optimizer, **given):
    """A step of gradient descent on 3 v under a loss scale: (train, step, v)."""
    v, step = tf.get_variable("v", initializer=10.0, use_resource=True), tf.train.get_or_create_global_step()
    optimizer = npu.NPULossScaleOptimizer(wrap(tf.train.GradientDescentOptimizer(1.0)), manager, **given)
    return optimizer.apply_gradients(optimizer.compute_gradients(3.0 * v), step), step, v


def test_a_step_that_overflows_is_skipped_and_the_scale_shrinks(npu_double, npu, graph):
    npu_double.inject_overflow(at_steps=[2, 3])
    manager = npu.ExponentialUpdateLossScaleManager(1024, 2, 2, 2, 0.5)
    train, step, v = scaled(npu, manager)
    seen = []
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(5):
            session.run(train)
            seen.append(tuple(session.run([v, step, "loss_scale:0", "good_steps:0", "bad_steps:0"])))
    assert seen == [(7, 1, 1024, 1, 0), (7, 1, 1024, 0, 1), (7, 1, 512, 0, 0), (4, 2, 512, 1, 0), (1, 3, 1024, 0, 0)]
    assert {"loss_scale", "good_steps", "bad_steps"} <= {variable.op.name for variable in tf.global_variables()}
    assert any(name.endswith("overflow_status_reduce_all") for name in (operation.name for operation in graph.get_operations()))


def test_an_overflow_that_is_not_cleared_goes_on(npu_double, npu, graph):
    from npu_bridge.helper import helper

    npu_double.inject_overflow(at_steps=[2])
    operations = helper.get_gen_ops()
    status, clear = operations.npu_get_float_status_v2(), operations.npu_clear_float_status_v2()
    assert (status.dtype, status.shape.as_list()) == (tf.int32, [8])
    with tf.Session() as session:
        seen = [int(session.run(status).any()) for _ in range(4)]
        session.run(clear)
        seen.append(int(session.run(status).any()))
    assert seen == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("decrease", [0.8, 0.5, 0.1])
def test_the_loss_scale_follows_its_rule_bit_by_bit(decrease, npu, graph):
    finite = tf.placeholder(tf.bool, [])
    manager = npu.ExponentialUpdateLossScaleManager(2.0**127, 2, 1, 2, decrease)
    update = manager.update_loss_scale(finite)
    scale, good, bad = np.float32(2.0**127), 0, 0
    rng = np.random.RandomState(0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for number in range(40):
            answer = bool(rng.rand() < (0.4 if number < 25 else 0.9))
            session.run(update, {finite: answer})
            if answer:
                good += 1
                if good >= 2:
                    larger = np.float32(scale * np.float32(2)) if scale < 1.8e38 else np.float32(np.inf)
                    scale, good, bad = larger if larger < np.float32(3.4e38) else scale, 0, 0
            else:
                bad, good = bad + 1, 0
                if bad >= 1:
                    scale, good, bad = max(np.float32(1), np.float32(scale * np.float32(decrease))), 0, 0
            assert session.run(["loss_scale:0", "good_steps:0", "bad_steps:0"]) == [scale, good, bad]


def test_a_fixed_scale_can_do_without_the_check(npu_double, npu, graph):
    npu_double.inject_overflow(at_steps=[1])
    train, step, v = scaled(npu, npu.FixedLossScaleManager(4096, enable_overflow_check=False))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(train)
        assert (session.run(v), session.run(step)) == (7, 1)
    for bad in (lambda: npu.FixedLossScaleManager(0.5), lambda: npu.ExponentialUpdateLossScaleManager(0, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            bad()


def test_the_910b_looks_for_infinities_instead(npu_double, npu, graph):
    npu_double.set_chip("910B")
    npu_double.inject_overflow(at_steps=[1])
    v, step = tf.get_variable("v", initializer=10.0, use_resource=True), tf.train.get_or_create_global_step()
    factor = tf.placeholder(tf.float32, [])
    optimizer = npu.NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(1.0), npu.FixedLossScaleManager(1))
    train = optimizer.apply_gradients(optimizer.compute_gradients(factor * v), step)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(train, {factor: np.inf})
        session.run(train, {factor: 1.0})
        assert (session.run(v), session.run(step)) == (9, 1)
    npu.npu_plugin.set_device_sat_mode(1)
    npu_double.set_chip("910")
    with pytest.raises(ValueError, match="can only saturate"):
        npu.npu_plugin.set_device_sat_mode(1)


def test_two_loss_scales_in_one_run_are_reported(npu_double, npu, graph):
    first, _, _ = scaled(npu, npu.FixedLossScaleManager(2))
    with tf.variable_scope("other"):
        second, _, _ = scaled(npu, npu.FixedLossScaleManager(2))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(first)
        assert "two-loss-scales" not in rules(npu_double)
        session.run([first, second])
        assert "two-loss-scales" in rules(npu_double)


def test_the_loss_scale_belongs_outside_and_is_told_of_ranks(npu_double, npu, graph):
    inner = npu.NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(1.0), npu.FixedLossScaleManager(2), is_distributed=True)
    npu.npu_distributed_optimizer_wrapper(inner)
    assert {"wrap-order", "is-distributed"} <= rules(npu_double)
    with tf.control_dependencies([tf.no_op()]):
        npu.ExponentialUpdateLossScaleManager(2, 2)
    assert "manager-in-control-dependencies" in rules(npu_double)


def test_the_doubles_own_nodes_are_none_that_leave_the_cores(npu_double, npu, graph, monkeypatch):
    npu_double.set_world(0, 2)
    monkeypatch.setenv("JOB_ID", "1")
    manager = npu.ExponentialUpdateLossScaleManager(1024, 2)
    train, step, v = scaled(npu, manager, npu.npu_distributed_optimizer_wrapper, is_distributed=True)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(train)
        assert session.run(v) == 7
    assert not {"unknown-operator", "dynamic-shape", "two-loss-scales", "is-distributed", "wrap-order"} & rules(npu_double)
    fallen = {(entry["op_type"].replace("VariableOp", ""), entry["where"]) for entry in npu_double.lints("not-on-ai-core")}
    assert fallen == {("AssignAdd", "aicpu")}  # of the global step, int64


def test_gradients_that_were_not_scaled_are_reported(npu_double, npu, graph):
    v = tf.get_variable("v", initializer=1.0, use_resource=True)
    optimizer = npu.NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(1.0), npu.FixedLossScaleManager(2))
    clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in optimizer.compute_gradients(v * v)], 1.0)
    optimizer.apply_gradients(zip(clipped, [v]))
    assert "foreign-gradients" not in rules(npu_double)
    optimizer.apply_gradients(zip(tf.gradients(v * v, [v]), [v]))
    assert "foreign-gradients" in rules(npu_double)


def test_a_checkpoint_without_the_loss_scale_is_reported(npu_double, npu, graph, tmp_path):
    v = tf.get_variable("v", initializer=1.0, use_resource=True)
    npu.ExponentialUpdateLossScaleManager(1024, 2)
    whole, part = tf.train.Saver(), tf.train.Saver([v])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        whole.save(session, str(tmp_path / "whole"))
        assert "loss-scale-not-saved" not in rules(npu_double)
        part.save(session, str(tmp_path / "part"))
        assert "loss-scale-not-saved" in rules(npu_double)


def test_mixed_precision_without_a_loss_scale_is_reported(npu_double, npu, graph):
    v = tf.get_variable("v", initializer=1.0, use_resource=True)
    train = tf.train.GradientDescentOptimizer(1.0).minimize(v * v)
    with tf.Session(config=with_options(npu, precision_mode=("s", b"allow_mix_precision"))) as session:
        session.run(tf.global_variables_initializer())
        assert "no-loss-scale" not in rules(npu_double)
        session.run(train)
        assert "no-loss-scale" in rules(npu_double)


@pytest.mark.parametrize("how", ["wrapper", "class"])
def test_gradients_are_averaged_over_ranks_and_missing_ones_stay_missing(how, npu_double, npu, graph, monkeypatch):
    npu_double.set_world(0, 2, peers=lambda name, own: [own * 3])
    make = npu.npu_distributed_optimizer_wrapper if how == "wrapper" else npu.NPUDistributedOptimizer
    scope = "Npu_Distributed_optimizer_Allreduce" if how == "wrapper" else "DistributedGradientDescentOptimizer_Allreduce"
    v, unused = tf.get_variable("v", initializer=1.0, use_resource=True), tf.get_variable("unused", initializer=1.0, use_resource=True)
    plain = tf.train.GradientDescentOptimizer(1.0)
    optimizer = make(plain)
    assert (optimizer is plain) == (how == "wrapper")
    with pytest.raises(AttributeError):
        optimizer.compute_gradients(5.0 * v, [v, unused])
    monkeypatch.setenv("JOB_ID", "1")
    gradients = optimizer.compute_gradients(5.0 * v, [v, unused])
    assert gradients[1][0] is None
    assert gradients[0][0].op.name.startswith(scope + "/")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert session.run(gradients[0][0]) == 10
    monkeypatch.setenv("CM_WORKER_SIZE", "2")
    with pytest.raises(ValueError, match="both set"):
        optimizer.compute_gradients(5.0 * v, [v])


def test_the_hook_broadcasts_trainable_variables_alone(npu_double, npu, graph):
    npu_double.set_world(1, 2, peers=lambda name, own: [own + 5])
    v = tf.get_variable("v", initializer=1.0, use_resource=True)
    statistics = tf.get_variable("statistics", initializer=1.0, trainable=False, use_resource=True)
    (hook,) = npu.npu_hooks_append([])
    hook.begin()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        hook.after_create_session(session, None)
        assert session.run([v, statistics]) == [6, 1]
    entry = npu_double.last("broadcast.variables")
    assert (entry["variables"], entry["left_out"]) == (["v"], ["statistics"])


# ------------------------------------------------------------------ the rest of the interface


def test_scopes_put_attributes_on_nodes(npu_double, npu, graph):
    with npu.npu_scope.keep_dtype_scope():
        inside = tf.add(tf.zeros([2]), 1.0)
    with npu.npu_scope.without_npu_compile_scope():
        host = tf.add(tf.zeros([2]), 1.0)
        tf.get_variable("v", initializer=1.0)
    assert inside.op.get_attr("_keep_dtype") == 1
    assert host.op.get_attr("_without_npu_compile") is True
    assert "scope-around-variable" in rules(npu_double)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"iterations_per_loop": 1.0}, TypeError),
        ({"iterations_per_loop": 0}, ValueError),
        ({"mix_compile_mode": True, "iterations_per_loop": 2}, ValueError),
        ({"mix_compile_mode": 1}, TypeError),
        ({"jit_compile": True}, TypeError),
        ({"graph_run_mode": 2}, ValueError),
        ({"dump_config": {}}, ValueError),
        ({"train_distribute": 1}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_run_configurations_are_checked(given, error, npu):
    assert npu.NPURunConfig(dump_config=npu.DumpConfig()).options["enable_data_pre_proc"] is True
    with pytest.raises(error):
        npu.NPURunConfig(**given)


def test_an_estimator_needs_its_configuration_and_a_job(npu, monkeypatch):
    with pytest.raises(ValueError, match="expected an NPURunConfig"):
        npu.NPUEstimator(config=None)
    with pytest.raises(ValueError, match="JOB_ID"):
        npu.NPUEstimator(config=npu.NPURunConfig())


def test_an_estimator_trains_with_several_iterations_a_run(npu_double, npu, monkeypatch, tmp_path):
    from npu_bridge.estimator.npu import npu_config

    if npu_config.estimator() is None:
        pytest.skip("this TensorFlow has no estimator")
    monkeypatch.setenv("JOB_ID", "1")

    def numbers():
        return tf.data.Dataset.range(100).map(lambda n: tf.cast(n, tf.float32))

    def model(features, labels, mode):
        v = tf.get_variable("v", initializer=1.0, use_resource=True)
        train = tf.train.GradientDescentOptimizer(0.1).minimize(v * tf.reshape(features, []), tf.train.get_global_step())
        return npu.NPUEstimatorSpec(mode=mode, loss=v * 1.0, train_op=train)

    config = npu.NPURunConfig(iterations_per_loop=2, model_dir=str(tmp_path), save_checkpoints_steps=4, precision_mode="force_fp32")
    npu.NPUEstimator(model, config=config).train(numbers, max_steps=4)
    runs = [entry["loops"] for entry in npu_double.journal() if entry["kind"] == "run" and entry["trains"]]
    assert runs == [2, 2]
    assert npu_double.last("options")["values"]["precision_mode"] == "force_fp32"
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith("model.ckpt-4")


def test_attributes_are_put_on_named_operations(npu_double, npu, graph):
    total = tf.add(tf.zeros([2]), 1.0, name="total")
    npu.util.keep_tensors_dtypes(graph, ["total:0"])
    assert total.op.get_attr("_keep_dtype") == 1
    assert npu.util.set_graph_exec_config(total, dynamic_input=True) is total
    assert total.op.get_attr("_graph_dynamic_input") is True
    v = tf.get_variable("v", initializer=1.0)
    assert npu.util.variable_initializer_in_host([v]).name == "var_in_host"
    for wrong in (
        lambda: npu.util.keep_tensors_dtypes(None, []),
        lambda: npu.util.keep_tensors_dtypes(graph, "total:0"),
        lambda: npu.util.set_graph_exec_config(total, dynamic_graph_execute_mode="always"),
        lambda: npu.util.set_graph_exec_config(1),
        lambda: npu.npu_ops.dropout(tf.zeros([2], tf.int32), 0.5),
        lambda: npu.npu_ops.dropout(total, 1.5),
    ):
        with pytest.raises(ValueError, match="."):
            wrong()
    assert npu.npu_ops.dropout(total, 1.0) is total
    assert npu.npu_ops.dropout(total, 0.5).shape.as_list() == [2]


def test_profilers_strategies_and_hooks_check_their_arguments(npu_double, npu):
    with npu.profiler.Profiler(level="L1"):
        pass
    assert npu_double.last("tf_adapter.ProfilerStart")["args"]["options"]["level"] == "L1"
    for wrong in (lambda: npu.profiler.Profiler(level=1), lambda: npu.npu_strategy.NPUStrategy("/gpu:0"), npu.TellMeStepOrLossHook):
        with pytest.raises(ValueError, match="."):
            wrong()


# ------------------------------------------------------------------ the journal and graphs


def test_the_journal_holds_calls_in_order_with_arguments_results_and_errors(npu_double, npu, graph):
    npu.FixedLossScaleManager(4096)
    with pytest.raises(ValueError, match="at least 1"):
        npu.FixedLossScaleManager(0)
    with pytest.raises(TypeError):
        npu.FixedLossScaleManager(scale=1)
    good, bad = [entry for entry in npu_double.journal() if entry.get("api") == "FixedLossScaleManager"]
    assert (good["args"], good["result"], good["phase"]) == ({"loss_scale": 4096, "enable_overflow_check": True}, None, "graph")
    assert bad["error"].startswith("ValueError: the loss scale is 0")
    assert [entry["index"] for entry in npu_double.journal()] == list(range(len(npu_double.journal())))


def test_the_journal_is_written_to_a_file_as_it_grows(npu_double, npu, graph, tmp_path, monkeypatch):
    npu_double.reset()
    monkeypatch.setenv("NPU_DOUBLE_JOURNAL", str(tmp_path / "{rank}.jsonl"))
    first_run(npu)
    path = tmp_path / "0.jsonl"
    assert npu_double.read_journal(str(path)) == json.loads(json.dumps(npu_double.journal()))
    with open(str(path), "a") as f:
        f.write('{"index": 99, "ki')  # killed while it wrote
    assert len(npu_double.read_journal(str(path))) == len(npu_double.journal())


def journal_of(npu_double, build):
    npu_double.reset()
    with tf.Graph().as_default(), tf.Session() as session:
        for fetches in build():
            session.run(fetches)
    return npu_double.journal()


def test_graphs_of_two_ranks_are_compared(npu_double, npu):
    def sums(value, extra=False, rows=3):
        total = tf.reduce_sum(tf.constant(value) * tf.ones([rows]), name="total")
        return [total, total] + ([total] if extra else [])

    same = journal_of(npu_double, lambda: sums(1.0))
    assert npu_double.graphs_differ(same, journal_of(npu_double, lambda: sums(1.0))) == ""
    assert "run 0 of total:0: the graphs differ" in npu_double.graphs_differ(same, journal_of(npu_double, lambda: sums(2.0)))
    assert "3 and 2 runs" in npu_double.graphs_differ(journal_of(npu_double, lambda: sums(1.0, extra=True)), same)
    other = journal_of(npu_double, lambda: [tf.reduce_mean(tf.ones([3]), name="total")])
    assert "Mean 0 1" in npu_double.graphs_differ(same, other)


def test_checkpoints_and_shards_of_data_may_differ_between_ranks(npu_double, npu, tmp_path):
    def rank(number):
        npu_double.reset()
        with tf.Graph().as_default(), tf.Session() as session:
            iterator = tf.data.make_initializable_iterator(tf.data.Dataset.range(8).shard(2, number))
            v = tf.get_variable("v", initializer=1.0, use_resource=True)
            value = tf.cast(iterator.get_next(), tf.float32) + v
            saver = tf.train.Saver()
            session.run(v.initializer)
            session.run(iterator.initializer)
            session.run(value)
            if number == 0:
                saver.save(session, str(tmp_path / "model"))
        return npu_double.journal()

    assert npu_double.graphs_differ(rank(0), rank(1)) == ""


def test_a_fetched_graph_is_linted(npu_double, npu, graph):
    image = tf.placeholder(tf.float32, [1, 8, 8, 3])
    kernel = tf.get_variable("kernel", [3, 3, 3, 16], use_resource=True)
    maps = tf.nn.conv2d(image, kernel, strides=[1, 1, 1, 1], padding="SAME")
    loss = tf.reduce_sum(tf.image.resize_bicubic(maps, [16, 16]) ** 2) * tf.reduce_sum(tf.random.uniform([2]))
    train = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
    flexible = tf.reduce_sum(tf.placeholder(tf.float32, [None, 2]))
    iterator = tf.data.make_initializable_iterator(tf.data.Dataset.range(3))
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), iterator.initializer])
        assert "initializers-with-iterator" in rules(npu_double)
        session.run(train, {image: np.zeros([1, 8, 8, 3])})
        fallen = {entry["op_type"] for entry in npu_double.lints("not-on-ai-core")}
        assert {"ResizeBicubic", "ResizeBicubicGrad", "RandomUniform"} <= fallen
        assert {"random-in-training", "channels"} <= rules(npu_double)
        assert "dynamic-shape" not in rules(npu_double)
        session.run(flexible, {"Placeholder_1:0": np.zeros([5, 2])})
        assert "dynamic-shape" in rules(npu_double)
        before = len(npu_double.lints())
        session.run(train, {image: np.zeros([1, 8, 8, 3])})
        assert len(npu_double.lints()) == before


def test_a_session_that_is_not_closed_is_reported(npu_double, npu, graph):
    session = tf.Session()
    session.run(tf.constant(1.0))
    del session
    import gc

    gc.collect()
    assert "session-not-closed" in rules(npu_double)


def test_fp16_is_emulated_and_what_does_not_fit_sets_the_register(npu_double, npu, graph):
    npu_double.emulate_fp16()
    v = tf.get_variable("v", initializer=[[1.0 + 2.0**-12]], use_resource=True)
    factor = tf.placeholder(tf.float32, [1, 1])
    optimizer = npu.NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(1.0), npu.FixedLossScaleManager(1))
    product = tf.matmul(factor, v)
    train = optimizer.apply_gradients(optimizer.compute_gradients(tf.reduce_sum(product)))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert session.run(product, {factor: [[1.0]]}) == 1.0  # fp16 has 11 bits
        session.run(train, {factor: [[1e6]]})
        assert session.run(v) == np.float32(1.0 + 2.0**-12)  # saturated: skipped
        session.run(train, {factor: [[1.0]]})
        assert session.run(v) == np.float32(2.0**-12)
