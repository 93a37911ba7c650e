"""Double of npu_bridge.estimator.npu.npu_config: configurations of the estimator (facts §1.4)."""

import importlib

import tensorflow.compat.v1 as tf
from npu_double.options import OPTIONS
from npu_double.recorder import recorded


def estimator():
    """Return TensorFlow's estimator module, or None where TensorFlow has none (2.16 and later)."""
    try:
        importlib.import_module("tensorflow_estimator")
        return tf.estimator
    except (ImportError, AttributeError):
        return None


class ProfilingConfig:
    """Holds what it is given."""

    @recorded("ProfilingConfig")
    def __init__(self, enable_profiling=False, profiling_options=None):
        self._enable_profiling, self._profiling_options = enable_profiling, profiling_options


class DumpConfig:
    """Holds what it is given."""

    @recorded("DumpConfig")
    def __init__(self, enable_dump=False, dump_path=None, dump_step=None, dump_mode="output", enable_dump_debug=False, dump_debug_mode="all",
                 dump_data="tensor", dump_layer=None):  # fmt: skip
        self._enable_dump, self._dump_path, self._dump_step, self._dump_mode = enable_dump, dump_path, dump_step, dump_mode
        self._enable_dump_debug, self._dump_debug_mode, self._dump_data, self._dump_layer = enable_dump_debug, dump_debug_mode, dump_data, dump_layer


class MemoryConfig:
    """Holds what it is given."""

    @recorded("MemoryConfig")
    def __init__(self, atomic_clean_policy=0, static_memory_policy=0, memory_optimization_policy=None, variable_use_1g_huge_page=0):
        self._atomic_clean_policy, self._static_memory_policy = atomic_clean_policy, static_memory_policy
        self._memory_optimization_policy, self._variable_use_1g_huge_page = memory_optimization_policy, variable_use_1g_huge_page


class DynamicInputConfig:
    """Holds what it is given."""

    @recorded("DynamicInputConfig")
    def __init__(self, input_shape, dynamic_dims, dynamic_node_type, compile_hybrid_mode=0):
        self._input_shape, self._dynamic_dims = input_shape, dynamic_dims
        self._dynamic_node_type, self._compile_hybrid_mode = dynamic_node_type, compile_hybrid_mode


_OBJECTS = {"profiling_config": ProfilingConfig, "dump_config": DumpConfig, "memory_config": MemoryConfig, "dynamic_input_config": DynamicInputConfig,
            "experimental_config": object}  # fmt: skip
_DEFAULTS = dict(
    {key: (None if option.default == "" else option.default) for key, option in OPTIONS.items()},
    iterations_per_loop=1, enable_data_pre_proc=True, precision_mode=None, mix_compile_mode=False, hcom_parallel=True, graph_run_mode=1,
    enable_exception_dump=2, buffer_optimize="l2_optimize", jit_compile="auto", stream_sync_timeout=-1, input_fusion_size=131072, deterministic=0,
    horovod_mode=False, **{name: None for name in _OBJECTS}
)  # fmt: skip
_UNSUPPORTED = ("train_distribute", "eval_distribute", "device_fn", "protocol")


class NPURunConfig:
    """TensorFlow's RunConfig (as `run_config`, where there is one) with the NPU's options as keyword arguments."""

    @recorded("NPURunConfig")
    def __init__(self, iterations_per_loop=1, model_dir=None, save_summary_steps=0, save_checkpoints_steps=None, save_checkpoints_secs=None,
                 session_config=None, keep_checkpoint_max=5, log_step_count_steps=100, tf_random_seed=1, **options):  # fmt: skip
        unknown = sorted(set(options) - set(_DEFAULTS) - set(_UNSUPPORTED))
        if unknown:
            raise TypeError("NPURunConfig() got an unexpected keyword argument {!r}".format(unknown[0]))
        if any(options.get(name) is not None for name in _UNSUPPORTED):
            raise ValueError("NPURunConfig: {} are not supported".format(", ".join(_UNSUPPORTED)))
        self.options = dict(_DEFAULTS, **options)
        self.options["iterations_per_loop"] = iterations_per_loop
        self._check()
        if save_checkpoints_steps is None and save_checkpoints_secs is None:
            save_checkpoints_steps = 100
        self.iterations_per_loop = iterations_per_loop
        self.model_dir, self.save_summary_steps, self.keep_checkpoint_max = model_dir, save_summary_steps, keep_checkpoint_max
        self.save_checkpoints_steps, self.save_checkpoints_secs = save_checkpoints_steps, save_checkpoints_secs
        self.session_config, self.log_step_count_steps, self.tf_random_seed = session_config, log_step_count_steps, tf_random_seed

    def _check(self):
        values = self.options
        if isinstance(values["iterations_per_loop"], bool) or not isinstance(values["iterations_per_loop"], int):
            raise TypeError("iterations_per_loop has to be an int")
        if not isinstance(values["mix_compile_mode"], bool):
            raise TypeError("mix_compile_mode has to be a bool")
        if not isinstance(values["jit_compile"], str):
            raise TypeError("jit_compile has to be a str")
        if values["iterations_per_loop"] <= 0:
            raise ValueError("iterations_per_loop={}, expected 1 or more".format(values["iterations_per_loop"]))
        if values["mix_compile_mode"] and values["iterations_per_loop"] != 1:
            raise ValueError("mix_compile_mode needs iterations_per_loop=1")
        if not isinstance(values["horovod_mode"], bool):
            raise ValueError("horovod_mode has to be a bool")
        if values["graph_run_mode"] > 1:
            raise ValueError("graph_run_mode={}, expected 0 or 1".format(values["graph_run_mode"]))
        for name, kind in _OBJECTS.items():
            if values[name] is not None and not isinstance(values[name], kind):
                raise ValueError("{} is {}, expected a {}".format(name, type(values[name]).__name__, kind.__name__))

    def npu_session_config(self):
        """Return the ConfigProto that the estimator's sessions get."""
        config = self.session_config or tf.ConfigProto()
        from npu_double import options

        options.configure(config)
        entry = options.entries(config)[0]
        for key, value in self.options.items():
            if key in OPTIONS and value is not None and value != OPTIONS[key].default:
                kind = OPTIONS[key].kind
                setattr(entry.parameter_map[key], kind, tf.compat.as_bytes(value) if kind == "s" else value)
        return config
