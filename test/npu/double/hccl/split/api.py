"""Double of hccl.split.api: how gradients are cut into allreduces. All errors are ValueError (edition of 2025)."""

from npu_double import recorder, world
from npu_double.recorder import recorded

from hccl.manage.api import _name

GROUP = world.WORLD_GROUP


def _examine(what, values, group, kinds):
    _name(group)
    if not isinstance(values, list) or not values:
        raise ValueError("{} {!r}: expected a list that is not empty".format(what, values))
    for value in values:
        if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
            raise ValueError("{}: {!r} is no number >= 0".format(what, value))
    if len(values) > 8:
        recorder.lint("split-segments", "{} has {} segments; 8 are the most".format(what, len(values)))
    if recorder.phase() in ("training", "shutdown"):
        recorder.lint("split-too-late", "{} is given after the first graph was compiled".format(what))
    elif not world.ready():
        recorder.lint("split-too-early", "{} is given before HCCL is initialised; releases differ in whether they take it".format(what))


@recorded("hccl.set_split_strategy_by_idx")
def set_split_strategy_by_idx(idxList, group=GROUP):  # noqa: N803
    """idxList: the last gradient of each segment, ascending."""
    _examine("idxList", idxList, group, int)
    if any(later <= earlier for earlier, later in zip(idxList, idxList[1:])):
        raise ValueError("idxList {}: not ascending".format(idxList))


@recorded("hccl.set_split_strategy_by_size")
def set_split_strategy_by_size(dataSizeList, group=GROUP):  # noqa: N803
    """dataSizeList: per cent of the bytes of each segment; their sum is 100."""
    _examine("dataSizeList", dataSizeList, group, (int, float))
    if sum(dataSizeList) != 100:
        raise ValueError("dataSizeList {}: the sum is {}, not 100".format(dataSizeList, sum(dataSizeList)))
