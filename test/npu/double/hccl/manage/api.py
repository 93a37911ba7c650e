"""Double of hccl.manage.api: groups and ranks. All errors are ValueError (edition of 2025)."""

from npu_double import device, recorder, world
from npu_double.recorder import recorded

GROUP = world.WORLD_GROUP


def _name(group, new=False):
    if not isinstance(group, str):
        raise ValueError("group {!r} is no string".format(group))
    if not 0 < len(group) < 128:
        raise ValueError("group name of {} characters; expected 1 to 127".format(len(group)))
    if new and group == GROUP:
        raise ValueError("{} cannot be created or destroyed".format(GROUP))


def _number(what, value, least=0):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError("{} {!r}: expected an integer >= {}".format(what, value, least))


def _query(what, group):
    _name(group)
    if not world.ready():
        if world.ended():
            recorder.lint("query-after-end", "{} after HCCL was shut down".format(what))
        raise ValueError("{} error. ret[{}]".format(what, 5))
    return world.ranks_of(group)


@recorded("hccl.create_group")
def create_group(group, rank_num, rank_ids):
    """Create a group of world ranks."""
    _name(group, new=True)
    _number("rank_num", rank_num, 1)
    if not isinstance(rank_ids, list) or len(rank_ids) != rank_num:
        raise ValueError("rank_ids {!r}: expected a list of rank_num={} numbers".format(rank_ids, rank_num))
    for number in rank_ids:
        _number("rank id", number)
    if group in world.groups():
        raise ValueError("group {!r} is there already".format(group))
    if not world.ready():
        raise ValueError("create group error. ret[5]")
    if len(set(rank_ids)) != rank_num or max(rank_ids) >= world.size():
        raise ValueError("rank_ids {} are not {} different ranks of {}".format(rank_ids, rank_num, world.size()))
    if device.chip() == "910" and world.local()[1] == world.size():
        world.check_devices(rank_ids, "group {}".format(group))
    world.groups()[group] = list(rank_ids)


@recorded("hccl.destroy_group")
def destroy_group(group):
    """Forget a group."""
    _name(group, new=True)
    if world.groups().pop(group, None) is None:
        raise ValueError("group {!r} is not there".format(group))


@recorded("hccl.get_rank_size")
def get_rank_size(group=GROUP):
    return len(_query("get rank size", group))


@recorded("hccl.get_rank_id")
def get_rank_id(group=GROUP):
    return _query("get rank id", group).index(world.rank())


@recorded("hccl.get_local_rank_size")
def get_local_rank_size(group=GROUP):
    _query("get local rank size", group)
    return world.local()[1]


@recorded("hccl.get_local_rank_id")
def get_local_rank_id(group=GROUP):
    _query("get local rank id", group)
    return world.local()[0]


@recorded("hccl.get_world_rank_from_group_rank")
def get_world_rank_from_group_rank(group, group_rank_id):
    _number("group_rank_id", group_rank_id)
    ranks = _query("get world rank from group rank", group)
    if group_rank_id >= len(ranks):
        raise ValueError("group rank {} of {}".format(group_rank_id, len(ranks)))
    return ranks[group_rank_id]


@recorded("hccl.get_group_rank_from_world_rank")
def get_group_rank_from_world_rank(world_rank_id, group):
    _number("world_rank_id", world_rank_id)
    ranks = _query("get group rank from world rank", group)
    if world_rank_id not in ranks:
        raise ValueError("world rank {} is not in group {!r}".format(world_rank_id, group))
    return ranks.index(world_rank_id)
