"""One trainer at a time in a place of the storage: who gets the lease, who is refused by name, and who finds out that it is lost."""

import json
import threading
import time

import pytest

from mtc.errors import TakenOver, UserError
from mtc.storage import Conflict, TransientError, open_storage
from mtc.storage import lease as leases
from test.storage.holders import holder, lease


@pytest.fixture
def folder(tmp_path):
    return open_storage(str(tmp_path / "store"))


def expire(storage, seconds_ago=1e6):
    """Make the lease look as if its holder had not renewed it for long."""
    record = leases.read(storage, "p")
    storage.write("p/lease.json", json.dumps(dict(record, expires=time.time() - seconds_ago)).encode())


def eager(storage):
    """A lease that asks the storage whenever it is asked, as after a long sleep, and by itself not at all."""
    held = lease(storage, seconds=3600.0)
    held.seconds = 0.0
    return held


def never(seconds):
    raise AssertionError("nobody should wait")


def test_a_free_lease_is_taken_and_given_back(storage):
    first = lease(storage)
    first.close()
    second = lease(storage)
    assert (first.fence, second.fence) == (1, 2)
    second.confirm()
    second.close()
    assert leases.read(storage, "p")["state"] == "released"


def test_a_second_trainer_is_refused_with_the_holders_name(storage):
    held = lease(storage, holder=holder(host="otherhost"))
    with pytest.raises(UserError, match="held by another trainer .process 4711 on otherhost, since 2023-"):
        lease(storage)
    held.confirm()
    held.close()


def test_the_lease_of_a_holder_that_is_proven_gone_is_taken_at_once(storage):
    gone = lease(storage)
    successor = lease(storage, gone={gone.token}, sleep=never) if storage.honours_conditions() else lease(storage, gone={gone.token})
    assert successor.fence == gone.fence + 1
    successor.close()


def test_a_lease_that_has_run_out_is_not_taken_without_being_asked_for(folder):
    lease(folder)
    expire(folder)
    with pytest.raises(UserError, match="has run out: add --take-over"):
        lease(folder)
    assert lease(folder, take_over=True, sleep=never).fence == 2


def test_taking_over_waits_until_a_fresh_lease_has_not_been_renewed_for_its_time(folder):
    held, waited = lease(folder, seconds=100.0), []
    successor = lease(folder, take_over=True, sleep=waited.append)
    assert sum(waited) >= 100
    assert successor.fence == held.fence + 1


def test_taking_over_from_one_that_is_alive_is_refused(folder):
    held = lease(folder, seconds=100.0)
    with pytest.raises(UserError, match="which is alive"):
        lease(folder, take_over=True, sleep=lambda seconds: held._renew())


def test_a_holder_that_gives_the_lease_back_meanwhile_is_followed(folder):
    held = lease(folder, seconds=100.0)
    assert lease(folder, take_over=True, sleep=lambda seconds: held.close()).fence == 2


def test_a_holder_that_was_cut_off_learns_that_it_was_replaced(storage):
    old = eager(storage)
    new = lease(storage, holder=holder(host="newhost"), gone={old.token})
    for ask in (old.confirm, old.check):
        with pytest.raises(TakenOver, match="taken over by trainer .process 4711 on newhost"):
            ask()
    new.confirm()
    old.close()  # gives nothing back that is not its own
    assert leases.read(storage, "p")["token"] == new.token
    assert leases.read(storage, "p")["state"] == "held"


def test_a_machine_that_has_slept_asks_again_before_it_writes(folder, monkeypatch):
    """time.monotonic does not count the sleep of a machine."""
    held = lease(folder, seconds=3600.0)
    lease(folder, gone={held.token})
    held.confirm()  # it was renewed a moment ago
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    with pytest.raises(TakenOver):
        held.confirm()


def test_a_removed_lease_counts_as_lost(folder):
    held = eager(folder)
    folder.delete("p/lease.json")
    with pytest.raises(TakenOver):
        held.confirm()


def test_of_many_that_want_it_at_once_one_gets_it(folder):
    taken, refused = [], []
    start = threading.Barrier(8)

    def want():
        start.wait()
        try:
            taken.append(lease(folder))
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)


def test_a_storage_that_is_away_does_not_lose_the_lease(folder, monkeypatch):
    held = eager(folder)
    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "write", lambda *a, **k: (_ for _ in ()).throw(TransientError("down")))
        with pytest.raises(TransientError):
            held.confirm()
        held.check()
    held.confirm()


def test_a_renewal_whose_answer_was_lost_is_known_for_ones_own(folder, monkeypatch):
    held, write = eager(folder), type(folder).write

    def lost(self, key, data, expected=None):
        write(self, key, data, expected)
        raise Conflict(key)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "write", lost)
        held.confirm()
    held.confirm()


def test_a_damaged_lease_is_replaced(folder):
    folder.write("p/lease.json", b"{torn")
    assert lease(folder).fence == 1
