"""Archives are unpacked whole and only as expected, or not at all."""

import gzip
import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile

import pytest

from mtc.errors import UserError
from mtc.fetch import extract

NAMES = r"(train2017|annotations)/\w+\.(jpg|json)"


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return str(folder)


def tree(folder):
    return sorted(os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder) for name in names)


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (mode | 0o777) << 16
    return info


def test_folders_appear_with_their_files(make_zip, target):
    archive = make_zip("a.zip", {"train2017/": b"", "train2017/a.jpg": b"1", "train2017/b.jpg": b"22", "annotations/c.json": b"{}"})
    assert extract.folders(archive, NAMES) == {"train2017": 2, "annotations": 1}
    assert extract.extract(archive, target, NAMES) == {"train2017": 2, "annotations": 1}
    assert tree(target) == ["annotations/c.json", "train2017/a.jpg", "train2017/b.jpg"]


def test_a_folder_replaces_the_old_one_as_a_whole(make_zip, target):
    extract.extract(make_zip("a.zip", {"train2017/old.jpg": b"1"}), target, NAMES)
    extract.extract(make_zip("a.zip", {"train2017/new.jpg": b"2"}), target, NAMES)
    assert tree(target) == ["train2017/new.jpg"]


def test_what_a_killed_run_left_is_removed(make_zip, target):
    os.makedirs(target + "/a.zip.extracting/train2017")
    with open(target + "/a.zip.extracting/train2017/half.jpg", "w"):
        pass
    extract.extract(make_zip("a.zip", {"train2017/a.jpg": b"1"}), target, NAMES)
    assert tree(target) == ["train2017/a.jpg"]
    assert os.listdir(target) == ["train2017"]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ("../x.jpg", "plain relative name"),
        ("train2017/../../x.jpg", "plain relative name"),
        ("/train2017/x.jpg", "plain relative name"),
        ("C:/train2017/x.jpg", "plain relative name"),
        ("train2017\\x.jpg", "plain relative name"),
        ("train2017//x.jpg", "plain relative name"),
        ("./train2017/x.jpg", "plain relative name"),
        ("train2017/x.sh", "is not expected"),
        ("train2017/x.jpg\n", "is not expected"),
        ("other/x.jpg", "is not expected"),
        (special("train2017/x.jpg", stat.S_IFLNK), "is a link"),
        (special("train2017/x.jpg", stat.S_IFIFO), "is a link or a special file"),
        (special("train2017/x.jpg", stat.S_IFCHR), "is a link or a special file"),
    ],
)
def test_an_evil_member_is_named_and_nothing_is_unpacked(make_zip, target, tmp_path, member, why):
    archive = make_zip("a.zip", {"train2017/good.jpg": b"1", member: b"evil"})
    with pytest.raises(UserError, match="a.zip: member .*" + why):
        extract.extract(archive, target, "(?s).*jpg" if why.startswith("plain") else NAMES)
    assert os.listdir(target) == []
    assert sorted(os.listdir(str(tmp_path))) == ["a.zip", "target"]


def test_a_nul_in_a_name_is_seen(make_zip, target):
    archive = make_zip("a.zip", {"train2017/x.jpg#.sh": b"1"})
    with open(archive, "rb") as f:
        data = f.read()
    with open(archive, "wb") as f:
        f.write(data.replace(b"x.jpg#", b"x.jpg\0"))
    with pytest.raises(UserError, match="plain relative name"):
        extract.extract(archive, target, NAMES)


def test_a_name_that_is_there_twice_is_refused(tmp_path, target):
    archive = str(tmp_path / "a.zip")
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w") as z:
        warnings.simplefilter("ignore")
        z.writestr("train2017/a.jpg", b"1")
        z.writestr("train2017/a.jpg", b"2")
    with pytest.raises(UserError, match="twice"):
        extract.extract(archive, target, NAMES)


def test_a_member_beyond_the_cap_is_refused(make_zip, target, monkeypatch):
    monkeypatch.setattr(extract, "MOST_MEMBER_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 B"):
        extract.extract(make_zip("a.zip", {"train2017/a.jpg": b"1" * 11}), target, NAMES)


def test_an_encrypted_member_is_refused(make_zip, target):
    archive = make_zip("a.zip", {"train2017/a.jpg": b"1"})
    with open(archive, "rb") as f:
        data = bytearray(f.read())
    at = data.index(b"PK\x01\x02")
    data[at + 8 : at + 10] = struct.pack("<H", 1)
    with open(archive, "wb") as f:
        f.write(data)
    with pytest.raises(UserError, match="encrypted"):
        extract.extract(archive, target, NAMES)


@pytest.mark.parametrize("kept", [0, 10, 300, -30])
def test_a_truncated_zip_is_refused(make_zip, target, kept):
    archive = make_zip("a.zip", {"train2017/a.jpg": os.urandom(1000)})
    with open(archive, "rb") as f:
        data = f.read()
    with open(archive, "wb") as f:
        f.write(data[:kept])
    with pytest.raises(UserError, match="not a whole archive"):
        extract.extract(archive, target, NAMES)
    assert os.listdir(target) == []


def test_a_flipped_bit_is_found_by_the_crc(make_zip, target):
    archive = make_zip("a.zip", {"train2017/a.jpg": os.urandom(100000), "train2017/b.jpg": b"1"})
    with open(archive, "r+b") as f:
        f.seek(50000)
        f.write(b"flipped")
    with pytest.raises(UserError, match="not a whole archive"):
        extract.extract(archive, target, NAMES)
    assert os.listdir(target) == []


def test_an_archive_without_files_is_refused(make_zip, target):
    with pytest.raises(UserError, match="holds no files"):
        extract.extract(make_zip("a.zip", {"train2017/": b""}), target, NAMES)


def test_a_missing_archive_and_a_full_disk_are_named(make_zip, target, monkeypatch):
    with pytest.raises(UserError, match="gone.zip cannot be unpacked: No such file"):
        extract.extract(target + "/gone.zip", target, NAMES)
    archive = make_zip("a.zip", {"train2017/a.jpg": b"1" * 100})
    usage = type("Usage", (), {"free": 99})
    monkeypatch.setattr(extract.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="unpacking needs 100 B, .* has 99 B free"):
        extract.extract(archive, target, NAMES)
    assert os.listdir(target) == []


MEMBERS = {"train2017/{:012d}.jpg".format(i): os.urandom(1000 + i) for i in range(20)}


def interrupt_after(monkeypatch, count):
    """Let extraction end after so many members, as if the process had been killed."""
    opened = extract._opened_member

    def member(archive, one):
        nonlocal count
        count -= 1
        if count < 0:
            raise KeyboardInterrupt
        return opened(archive, one)

    monkeypatch.setattr(extract, "_opened_member", member)


@pytest.mark.parametrize("spoil", ["nothing", "cut", "zeros", "another archive"])
def test_an_interrupted_extraction_goes_on_and_trusts_only_what_is_right(make_zip, target, monkeypatch, spoil):
    archive = make_zip("a.zip", MEMBERS)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            extract.extract(archive, target, NAMES)
    assert not os.path.exists(os.path.join(target, "train2017"))
    staged = os.path.join(target, "a.zip.extracting", "train2017")
    assert len(os.listdir(staged)) == 10
    first = os.path.join(staged, sorted(os.listdir(staged))[0])
    if spoil == "another archive":
        archive = make_zip("a.zip", dict(MEMBERS, **{"train2017/more.jpg": b"1"}))
    elif spoil != "nothing":
        with open(first, "r+b") as f:
            f.truncate(5) if spoil == "cut" else f.write(bytes(1000))
    written, opened = [], extract._opened_member
    monkeypatch.setattr(extract, "_opened_member", lambda archive, one: written.append(one.name) or opened(archive, one))
    extract.extract(archive, target, NAMES)
    assert len(written) == {"nothing": 10, "cut": 11, "zeros": 11, "another archive": 21}[spoil]
    for name, data in MEMBERS.items():
        with open(os.path.join(target, name), "rb") as f:
            assert f.read() == data
    assert os.listdir(target) == ["train2017"]


def test_a_full_disk_in_the_middle_keeps_what_is_there(make_zip, target, monkeypatch):
    archive = make_zip("a.zip", MEMBERS)
    copy = extract.shutil.copyfileobj

    def full(source, destination, block):
        if destination.name.endswith("000005.jpg"):
            raise OSError(28, "No space left on device", destination.name)
        copy(source, destination, block)

    with monkeypatch.context() as patch:
        patch.setattr(extract.shutil, "copyfileobj", full)
        with pytest.raises(UserError, match="a.zip cannot be unpacked: .*000005.jpg: No space left on device"):
            extract.extract(archive, target, NAMES)
    assert extract.extract(archive, target, NAMES) == {"train2017": 20}
    assert os.listdir(target) == ["train2017"]


def make_tar(path, entries, mode="w:gz"):
    with tarfile.open(str(path), mode) as t:
        for info, data in entries:
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return str(path)


def tar_info(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_tar_is_unpacked_into_one_folder(tmp_path, target):
    entries = [(tar_info(".", tarfile.DIRTYPE), b""), (tar_info("./train2017/a.jpg"), b"1"), (tar_info("annotations/b.json"), b"2")]
    archive = make_tar(tmp_path / "a.tgz", entries)
    extract.unpack(archive, target + "/new", NAMES)
    assert tree(target) == ["new/annotations/b.json", "new/train2017/a.jpg"]


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (tar_info("../x.jpg"), "plain relative name"),
        (tar_info("/x.jpg"), "plain relative name"),
        (tar_info("train2017/x.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (tar_info("train2017/x.jpg", tarfile.LNKTYPE, "train2017/y.jpg"), "is a link"),
        (tar_info("train2017/x.jpg", tarfile.FIFOTYPE), "special file"),
        (tar_info("train2017/x.sh"), "is not expected"),
    ],
)
def test_an_evil_member_of_a_tar_is_named_and_nothing_is_unpacked(tmp_path, target, info, why):
    archive = make_tar(tmp_path / "a.tar", [(tar_info("train2017/good.jpg"), b"1"), (info, b"")], mode="w")
    with pytest.raises(UserError, match="a.tar: member .*" + why):
        extract.unpack(archive, target + "/new", NAMES)
    assert os.listdir(target) == []


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_tar_is_refused(tmp_path, target, damage):
    archive = make_tar(tmp_path / "a.tar", [(tar_info("train2017/a.jpg"), os.urandom(50000))], mode="w")
    with open(archive, "rb") as f:
        packed = bytearray(gzip.compress(f.read()))
    if damage == "cut":
        del packed[-20000:]
    else:
        packed[-6] ^= 1  # in gzip's checksum
    with open(archive + ".gz", "wb") as f:
        f.write(packed)
    with pytest.raises(UserError, match="not a whole archive"):
        extract.unpack(archive + ".gz", target + "/new", NAMES)
    assert os.listdir(target) == []
