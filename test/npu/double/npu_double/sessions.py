"""What happens to sessions: they are made for the NPU, and each run is checked, journaled, linted and, for a loop, repeated (facts §0, §5, §10.3).

TensorFlow's classes are patched when npu_bridge is imported. That a session gets the NPU's configuration is what the real adapter does (its
edition of 2021 did not: NPU_DOUBLE_ERA=2021); that `run` and `close` are watched is how the double sees what the real one sees below TensorFlow.
"""

import gc
import hashlib
import os
import threading
import weakref

import tensorflow.compat.v1 as tf
from tensorflow.python.client import session as client
from tensorflow.python.util import nest

from npu_double import device, graphs, options, recorder, world

LOOP = "IterationOp"
_THREADS = 256  # every collective operation in flight holds one, as it waits for ranks that may come to another first

_sessions = weakref.WeakSet()
_scaled = []  # whether a loss scale was made
_inside = threading.local()
_patched = []
_taking = []


class _State:
    def __init__(self, name):
        self.name, self.checked, self.known, self.closed, self.entered, self.runs, self.initialised_hccl = name, None, {}, False, False, 0, False
        self.forgotten = False

    def end(self):
        """The session is no more, or the program ends."""
        if not self.closed and not self.forgotten and self.runs:
            recorder.lint("session-not-closed", "session {} was never closed: its graphs keep their memory".format(self.name))


def install():
    """Watch TensorFlow's sessions, once."""
    if _patched:
        return
    for kind, name, patch in (
        (client.Session, "__init__", _configured),
        (client.InteractiveSession, "__init__", _configured),
        (client.BaseSession, "run", _watched),
        (client.BaseSession, "close", _closing),
        (client.BaseSession, "__del__", _dying),
        (client.Session, "__enter__", _entering),
        (client.BaseSession, "make_callable", _calling),
    ):
        _patched.append((kind, name, getattr(kind, name)))
        setattr(kind, name, patch(getattr(kind, name)))


def uninstall():
    """Leave TensorFlow as it was before `install`, for tests of other things in the same process."""
    while _patched:
        setattr(*_patched.pop())
    del _taking[:]


def take_all():
    """Give sessions the NPU's configuration from now on; importing npu_bridge.npu_init does."""
    if not _taking:
        _taking.append(True)
        if not {client.Session, client.InteractiveSession}.isdisjoint(map(type, gc.get_objects())):
            recorder.lint("late-import", "a session was made before npu_bridge.npu_init was imported: it stays on the host")


def era():
    """Return "2021" where the adapter's edition of that year is asked for, else "now"."""
    return os.environ.get("NPU_DOUBLE_ERA", "now")


def looped(graph, variable):
    """Tell that a graph has an IterationOp, and the variable that holds its number of repetitions less one."""
    graph._npu_double_loop = variable


def keeps_scale(graph, variables):
    """Tell that a graph holds the state of a loss scale."""
    graph._npu_double_scale = getattr(graph, "_npu_double_scale", []) + [variable.op.name for variable in variables]


def loss_scaled():
    """Tell that an optimizer with a loss scale was made."""
    _scaled.append(True)


@recorder.at_reset
def _restart():
    for session in list(_sessions):
        session._npu_double.forgotten = True
    del _scaled[:]


@recorder.at_end
def _end():
    for session in list(_sessions):
        session._npu_double.end()
        session._npu_double.forgotten = True
    if world._state["inits"] > world._state["shutdowns"]:
        recorder.lint("never-shut-down", "initialize_system ran, shutdown_system did not")


def _configured(original):
    def __init__(self, target="", graph=None, config=None, *rest, **kwargs):
        recorder.enter("configured")
        patched = bool(_taking) and era() != "2021"
        if patched:
            config = options.configure(config if isinstance(config, tf.ConfigProto) else tf.ConfigProto())
        given = config
        if config is not None and options.on_npu(config) and world.size() > 1:
            given = tf.ConfigProto()
            given.CopyFrom(config)
            if not given.session_inter_op_thread_pool:
                given.session_inter_op_thread_pool.add(num_threads=_THREADS, global_name="npu_double")
        original(self, target, graph, given, *rest, **kwargs)
        state = _state(self)
        described = options.describe(config) if config is not None else None
        recorder.note("event", api="session", name=state.name, class_name=type(self).__name__, config=described, npu=_on_npu(self), patched=patched)

    __init__.__wrapped__ = original
    return __init__


def _on_npu(session):
    return options.on_npu(getattr(session, "_config", None))


def _state(session):
    if not hasattr(session, "_npu_double") or session._npu_double.forgotten:
        session._npu_double = _State("session-{}".format(len(recorder.journal())))
        _sessions.add(session)
    return session._npu_double


def _entering(original):
    def __enter__(self):
        _state(self).entered = True
        return original(self)

    return __enter__


def _closing(original):
    def close(self):
        state = getattr(self, "_npu_double", None)
        if state is not None and not state.closed:
            state.closed = True
            recorder.note("event", api="session.close", name=state.name, runs=state.runs, with_statement=state.entered)
            if state.initialised_hccl:
                world.stop()  # the session that brought HCCL up takes it down
        return original(self)

    return close


def _dying(original):
    def __del__(self):
        if hasattr(self, "_npu_double"):
            self._npu_double.end()
            self._npu_double.forgotten = True
            self._npu_double.closed = True
        original(self)

    return __del__


def _calling(original):
    def make_callable(self, fetches, feed_list=None, accept_options=False):
        """As TensorFlow's, by way of `run`, so that each call is seen."""
        feeds = list(feed_list or ())

        def call(*values, **kwargs):
            return self.run(fetches, dict(zip(feeds, values)) or None, **kwargs)

        return call

    make_callable.__wrapped__ = original
    return make_callable


def _watched(original):
    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):  # noqa: A002 - TensorFlow's name
        if getattr(_inside, "depth", 0):
            return original(self, fetches, feed_dict, options, run_metadata)
        state = _state(self)
        state.runs += 1
        known = _known(self, state, fetches, feed_dict)
        npu = _on_npu(self)
        if npu and state.checked is None:
            state.checked = _first(self)
        if npu and known["collective"]:
            _up()
        loops = _loops(self, original, known, state, feed_dict) if npu else 1
        if npu and not known["linted"]:
            known["linted"] = True
            if known["part"] == "compute":
                graphs.examine(self.graph, known["operations"], known["fed"], known["subgraph"], loops > 1)
            elif known["part"] == "checkpoint":
                graphs.saved(self.graph, known["subgraph"])
            if known["trains"]:
                _train_rules(state)
        if known["trains"]:
            recorder.enter("training")
        recorder.note(
            "run", api="session.run", session=state.name, device="npu" if npu else "host", signature=known["signature"], graph=known["graph"],
            nodes=known["nodes"], part=known["part"], loops=loops, trains=known["trains"],
        )  # fmt: skip
        state.initialised_hccl = state.initialised_hccl or known["initialises"]
        for _ in range(loops - 1):
            original(self, fetches, feed_dict, options, run_metadata)
        return original(self, fetches, feed_dict, options, run_metadata)

    run.__wrapped__ = original
    return run


def _first(session):
    """What the first run of a session on the NPU does before anything else."""
    return options.check(session._config)


def _up():
    try:
        world.start()
    except Exception as error:
        raise tf.errors.InternalError(None, None, "NPU: HCCL cannot be initialised: {}".format(error)) from error


def _known(session, state, fetches, feed_dict):
    """Return what there is to know of a run's subgraph; looked at once for each signature, until the graph grows."""
    with session.graph.as_default():
        fed = [session.graph.as_graph_element(feed, allow_operation=False) for feed in _fed(feed_dict)]
        handler = client._FetchHandler(session.graph, fetches, {tensor_key(tensor): True for tensor in fed})
    fetched = list(handler.fetches()) + list(handler.targets())
    names = sorted(thing.name for thing in fetched), sorted(tensor.name for tensor in fed)
    key = str(names), session.graph.version
    if key in state.known:
        return state.known[key]
    operations = [thing if isinstance(thing, tf.Operation) else thing.op for thing in fetched]
    subgraph = graphs.subgraph(operations, fed)
    digest, nodes = graphs.digest(session.graph, subgraph)
    counts = graphs.types(session.graph, subgraph)
    found = {
        "operations": operations, "fed": fed, "subgraph": subgraph, "graph": digest, "nodes": nodes, "part": graphs.part(subgraph), "linted": False,
        "signature": hashlib.sha256(str(names).encode()).hexdigest()[:16],
        "trains": graphs.trains(counts), "collective": any(name.startswith("Hcom") for name in counts), "initialises": "NPUInit" in counts,
    }  # fmt: skip
    recorder.note(
        "graph", signature=found["signature"], graph=digest, nodes=nodes, part=found["part"], fetches=names[0], feeds=names[1], types=counts
    )
    state.known[key] = found
    return found


def tensor_key(tensor):
    """Return what `_FetchHandler` looks fed tensors up by."""
    return tensor.ref() if hasattr(tensor, "ref") else tensor


def _fed(feed_dict):
    for feed in feed_dict or ():
        yield from nest.flatten(feed) if isinstance(feed, tuple) else [feed]


def _loops(session, original, known, state, feed_dict):
    """Return how many times this run is made: 1, or what is loaded into the variable of its IterationOp."""
    if not hasattr(session.graph, "_npu_double_loop") or not any(name.split("/")[-1].startswith(LOOP) for name in known["subgraph"]):
        return 1
    _inside.depth = 1
    try:
        loops = int(original(session, session.graph._npu_double_loop)) + 1
    finally:
        _inside.depth = 0
    if loops != state.checked["iterations_per_loop"]:
        recorder.lint(
            "loop-mismatch",
            "set_iteration_per_loop says {}, the session's option {}".format(loops, state.checked["iterations_per_loop"]),
            once=state.name,
        )
    types = {operation.type for operation in known["subgraph"].values()}
    if loops > 1 and "OneShotIterator" in types:
        raise options.Aborted("NPU: iterations_per_loop={} with a OneShotIterator".format(loops))
    if loops > 1 and feed_dict:
        recorder.lint("loop-with-feeds", "what is fed stays the same in all {} iterations of a run".format(loops), once=state.name)
    return loops


def _train_rules(state):
    if options.mixed(state.checked) and device.chip() == "910" and not _scaled:
        recorder.lint("no-loss-scale", "a mode of mixed precision on the 910 without a loss scale: small gradients become zero, overflows go unseen")
