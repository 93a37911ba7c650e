"""What ranks say to each other, without TensorFlow: a leader and its followers in threads of one process."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtc.errors import RunFailed, Stopped, UserError
from mtc.sections import Distributed
from mtc.training.ranks import link, team
from mtc.training.ranks.world import World

FACTS = {"train.batch_size": 4, "data set coco": "94 samples"}


class Abandoned:
    """Takes what a process would have ended with."""

    def __init__(self):
        self.calls, self.came = [], threading.Event()

    def __call__(self, text, code):
        self.calls.append((text, code))
        self.came.set()


def worlds(size):
    meeting = "127.0.0.1", link.free_port()
    return [World(rank, size, meeting) for rank in range(size)]


def settings(patience=20.0, silence=60.0):
    return Distributed(patience=patience, silence=silence)


@contextlib.contextmanager
def gathered(size=2, silence=60.0):
    """Yield (leader, [followers], what each would have been abandoned with)."""
    found, abandoned = worlds(size), [Abandoned() for _ in range(size)]
    with ThreadPoolExecutor(size) as pool:
        leader = pool.submit(team.Leader, found[0], FACTS, settings(), abandoned[0])
        arguments = [(w, 1000 + w.rank, FACTS, settings(silence=silence), a) for w, a in zip(found[1:], abandoned[1:])]
        followers = [pool.submit(team.Follower, *each) for each in arguments]
        leader = leader.result(20)
        addresses = leader.addresses
        leader.start(addresses)
        followers = [each.result(20) for each in followers]
    yield leader, followers, abandoned


def test_all_learn_the_addresses_of_all_and_step_together():
    with gathered(3) as (leader, followers, _), leader:
        assert leader.addresses[1:] == ["127.0.0.1:1001", "127.0.0.1:1002"]
        assert [follower.addresses for follower in followers] == [leader.addresses] * 2
        for follower in reversed(followers):
            follower.ready(names=[str(follower.rank)])
        assert [message["names"] for message in leader.gather()] == [["1"], ["2"]]
        leader.tell("step", number=7)
        assert [follower.receive() for follower in followers] == [{"do": "step", "number": 7}] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "success"), (UserError("no"), "user_error"), (Stopped("no"), "stopped"), (RunFailed("no"), "failed"), (ValueError("no"), "failed")],
)
def test_followers_learn_how_the_leader_has_ended(error, status):
    with gathered() as (leader, (follower,), abandoned):
        with contextlib.suppress(Exception), leader:
            if error:
                raise error
        assert follower.receive() == {"do": "end", "status": status, "text": "no" if error else "", "requested_by": None}
        time.sleep(0.1)
    assert abandoned[1].calls == []


def test_a_follower_whose_main_thread_hangs_at_the_end_is_ended(monkeypatch):
    monkeypatch.setattr(team, "_END_GRACE", 0.1)
    with gathered() as (leader, _, abandoned):
        with contextlib.suppress(UserError), leader:
            raise UserError("disk full")
        assert abandoned[1].came.wait(10)
    assert abandoned[1].calls == [("rank 0 has ended: disk full", 2)]


def test_who_cannot_read_its_samples_tells_the_leader_before_the_step():
    with gathered(3) as (leader, (first, second), _), leader:
        first.ready(names=[])
        with contextlib.suppress(UserError), second:
            raise UserError("file 17 is missing")
        with pytest.raises(UserError, match="rank 2: file 17 is missing"):
            leader.gather()


def test_what_a_rank_failed_with_is_told_though_another_is_not_ready_yet():
    with gathered(3) as (leader, (_, second), _), leader:
        with contextlib.suppress(UserError), second:
            raise UserError("file 17 is missing")
        with pytest.raises(UserError, match="rank 2: file 17 is missing"):
            leader.gather()  # and does not say that rank 2 is gone


def test_a_rank_that_dies_is_noticed_between_steps():
    with gathered(3) as (leader, followers, abandoned), leader:
        followers[1]._link.socket.shutdown(socket.SHUT_RDWR)  # as the kernel does it for a process that is killed
        with pytest.raises(RunFailed, match=r"rank 2 \(127.0.0.1\) is gone: all ranks end"):
            leader.gather()
        time.sleep(0.1)
        assert abandoned[0].calls == []


def test_a_leader_that_hangs_in_a_step_when_a_rank_dies_is_ended_after_its_last_words(monkeypatch):
    monkeypatch.setattr(team, "_GRACE", 0.1)
    said = []
    with gathered() as (leader, (follower,), abandoned):
        leader.before_leaving = lambda: said.append("journal")
        follower._link.socket.shutdown(socket.SHUT_RDWR)
        assert abandoned[0].came.wait(10)
        assert said == ["journal"]
        assert abandoned[0].calls[0][1] == 1
        leader.__exit__(None, None, None)


def test_tensorflows_error_of_a_step_is_explained_by_the_rank_that_is_gone():
    with gathered() as (leader, (follower,), _), leader:
        follower._link.socket.shutdown(socket.SHUT_RDWR)
        assert "is gone" in str(leader.explained(ValueError("UNAVAILABLE")))


def test_tensorflows_error_of_a_step_stays_what_it_is_while_all_are_there(monkeypatch):
    monkeypatch.setattr(team, "_GRACE", 0.1)
    error = ValueError("out of memory")
    with gathered() as (leader, _, _), leader:
        assert leader.explained(error) is error


def test_a_leader_that_dies_ends_its_followers(monkeypatch):
    monkeypatch.setattr(team, "_GRACE", 0.1)
    with gathered(3) as (leader, (first, second), abandoned):
        for link in leader._links.values():
            link.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(RunFailed, match=r"rank 0 \(127.0.0.1\) is gone"):
            first.receive()
        assert abandoned[2].came.wait(10)  # it hangs in a step
        for end in (first, second, leader):
            end.__exit__(None, None, None)


def test_silence_is_taken_for_death(monkeypatch):
    monkeypatch.setattr(team, "_BEAT", 0.05)
    with gathered(silence=0.5) as (leader, (follower,), _):
        leader._ending.set()  # no sign of life any more, though the connection stays: a machine that has lost its network
        with pytest.raises(RunFailed, match="rank 0 .* has been silent for 0.5 s"):
            follower.receive()
        for end in (follower, leader):
            end.__exit__(None, None, None)


def test_a_followers_signal_is_a_wish_of_the_leader():
    with gathered() as (leader, (follower,), _), leader:
        follower.wish("SIGTERM")
        follower.ready()
        leader.gather()  # after the wish on the same connection
        assert leader.wishes == ["SIGTERM at rank 1"]


def test_nobody_starts_where_one_does_not_come():
    found = worlds(3)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(team.Leader, found[0], FACTS, settings(patience=1.0), Abandoned())
        follower = pool.submit(team.Follower, found[1], 1, FACTS, settings(), Abandoned())
        for end in (leader, follower):
            with pytest.raises(RunFailed, match=r"rank 2 did not come to 127.0.0.1:\d+ within 1 s"):
                end.result(20)


def test_a_follower_does_not_wait_for_ever_for_a_leader():
    with pytest.raises(RunFailed, match=r"rank 1 does not reach rank 0 at 127.0.0.1:\d+ within 1 s"):
        team.Follower(worlds(2)[1], 1, FACTS, settings(patience=1.0), Abandoned())


def test_ranks_that_want_different_things_do_not_start():
    found = worlds(2)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(team.Leader, found[0], FACTS, settings(), Abandoned())
        follower = pool.submit(team.Follower, found[1], 1, dict(FACTS, **{"train.batch_size": 2}), settings(), Abandoned())
        for end in (leader, follower):
            with pytest.raises(UserError, match="rank 1 at 127.0.0.1 differs from rank 0: train.batch_size is 2, not 4"):
                end.result(20)


def test_a_stranger_at_the_door_is_ignored_and_a_rank_that_is_there_already_refused():
    found = worlds(2)
    with ThreadPoolExecutor(3) as pool:
        leader = pool.submit(team.Leader, found[0], FACTS, settings(), Abandoned())
        for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": []}\n', b"[]\n"):
            with contextlib.closing(knock(found[0].meeting)) as stranger:
                stranger.sendall(said)
        with pytest.raises(RunFailed, match="rank 7 of 2 is not waited for"):
            team.Follower(found[1]._replace(rank=7), 1, FACTS, settings(), Abandoned())
        follower = pool.submit(team.Follower, found[1], 1, FACTS, settings(), Abandoned())
        with leader.result(20) as made:
            made.start(["a", "b"])
            assert follower.result(20).addresses == ["a", "b"]


def test_signs_of_life_do_not_come_before_the_welcome(monkeypatch):
    monkeypatch.setattr(team, "_BEAT", 0.01)
    found = worlds(2)
    with ThreadPoolExecutor(2) as pool:
        follower = pool.submit(team.Follower, found[1], 1, FACTS, settings(), Abandoned())
        with team.Leader(found[0], FACTS, settings(), Abandoned()) as leader:
            time.sleep(0.3)  # a machine that has other things to do
            leader.start(["a", "b"])
            assert follower.result(20).addresses == ["a", "b"]


def test_ranks_that_come_to_a_leader_with_nothing_to_do_are_sent_home():
    found = worlds(2)
    with ThreadPoolExecutor(2) as pool:
        home = pool.submit(team.dismiss, found[0], settings(), 0, "nothing to train")
        with team.Follower(found[1], 1, FACTS, settings(), Abandoned()) as follower:
            assert follower.receive() == {"do": "end", "status": "success", "text": "nothing to train", "requested_by": None}
        home.result(20)


def test_ranks_that_share_a_disk_meet_by_a_file_a_stale_one_included(tmp_path):
    path = tmp_path / "deep" / "meeting.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"v": 1, "host": "127.0.0.1", "port": link.free_port()}))  # of a rank 0 that was killed
    found = [world._replace(meeting=("", 0), meeting_file=str(path)) for world in worlds(2)]
    with ThreadPoolExecutor(2) as pool:
        follower = pool.submit(team.Follower, found[1], 1, FACTS, settings(), Abandoned())
        time.sleep(0.3)
        with team.Leader(found[0], FACTS, settings(), Abandoned()) as leader:
            leader.start(["a", "b"])
            assert follower.result(20).addresses == ["a", "b"]
    assert not path.exists()


def test_an_address_that_is_not_rank_0s_own_is_a_mistake():
    with pytest.raises(UserError, match="MASTER_ADDR must be an address of its machine"):
        team.Leader(World(0, 2, ("192.0.2.1", 29500)), FACTS, settings(), Abandoned())


def knock(meeting):
    until = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(meeting, timeout=5)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
