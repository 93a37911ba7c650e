"""What waits for its upload is known after a restart."""

from mtc import files
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING, UploadQueue


def queue(tmp_path, place="file:///s"):
    return UploadQueue(str(tmp_path / "uploads.json"), place)


def test_the_oldest_comes_first_whatever_the_order_of_coming(tmp_path):
    made = queue(tmp_path)
    for step in (30, 4, 100):
        made.add("step-{:08d}".format(step), "digest")
    assert made.next() == "step-00000004"
    assert made.names(WAITING) == ["step-00000004", "step-00000030", "step-00000100"]


def test_a_restart_knows_what_waits_what_was_sent_and_what_is_done(tmp_path):
    made = queue(tmp_path)
    for step in (1, 2, 3, 4):
        made.add("step-{}".format(step), "digest")
    made.finish("step-1", UPLOADED)
    made.set_sent("step-2", {"b", "a"})
    made.finish("step-3", FAILED, "denied")
    made.finish("step-4", REMOVED)
    again = queue(tmp_path)
    assert [again.names(state) for state in (UPLOADED, WAITING, FAILED, REMOVED)] == [["step-1"], ["step-2"], ["step-3"], ["step-4"]]
    assert again.sent("step-2") == {"a", "b"}
    assert again.reason("step-3") == "denied"
    assert [again.add("step-{}".format(step), "digest") for step in (1, 2, 3, 4)] == [False, True, True, False]
    assert again.sent("step-2") == {"a", "b"}


def test_another_checkpoint_of_the_same_name_is_sent_from_the_start(tmp_path):
    made = queue(tmp_path)
    made.add("step-1", "digest")
    made.set_sent("step-1", {"a"})
    made.finish("step-1", UPLOADED)
    assert made.add("step-1", "other")
    assert made.sent("step-1") == set()


def test_another_place_knows_nothing(tmp_path):
    queue(tmp_path).add("step-1", "digest")
    assert queue(tmp_path, "s3://elsewhere").next() is None


def test_a_damaged_file_is_an_empty_queue(tmp_path):
    for content in ("{torn", "[]", '{"place": "file:///s"}', '{"place": "file:///s", "checkpoints": {"a": 1}}'):
        (tmp_path / "uploads.json").write_text(content)
        assert queue(tmp_path).next() is None


def test_a_full_disk_costs_the_file_and_not_the_uploads(tmp_path, monkeypatch, caplog):
    def full(path, value):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(files, "write_json", full)
    made = queue(tmp_path)
    assert made.add("step-1", "digest")
    made.finish("step-1", UPLOADED)
    assert made.names(UPLOADED) == ["step-1"]
    assert caplog.text.count("No space left") == 1
    monkeypatch.undo()
    made.flush()
    assert queue(tmp_path).names(UPLOADED) == ["step-1"]
