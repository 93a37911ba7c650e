"""Double of npu_bridge's profiler."""

from npu_double.recorder import recorded

from npu_bridge import tf_adapter


class Profiler:
    """Profiles what runs in its context."""

    @recorded("profiler.Profiler")
    def __init__(self, *, level="L0", aic_metrics="", output_path=""):
        for name, value in (("level", level), ("aic_metrics", aic_metrics), ("output_path", output_path)):
            if not isinstance(value, str):
                raise ValueError("{} is {}, expected a str".format(name, type(value).__name__))
        self._options = {"level": level, "aic_metrics": aic_metrics, "output_path": output_path}

    def __enter__(self):
        tf_adapter.ProfilerStart(self._options)
        return self

    def __exit__(self, *error):
        tf_adapter.ProfilerStop()
