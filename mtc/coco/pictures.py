"""What the header of a JPEG or PNG says, without decoding it."""

from typing import NamedTuple, Optional

_HEAD = 8192
"""Bytes that are read first: the frame's header lies in them unless an embedded thumbnail or colour profile comes before it."""
TAIL = 4096
"""Bytes at the end of a JPEG in which its end mark must be: some cameras and tools append a few."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG segments that begin with the image's size (ITU T.81, table B.1)."""


class Frame(NamedTuple):
    """An image's frame."""

    width: int
    height: int
    components: int
    """Of a JPEG, 1: grey, 3: colour, 4: CMYK; 0 for a PNG."""


def frame(data) -> Optional[Frame]:
    """Return the `Frame` of a file's bytes, or None where they are neither JPEG nor PNG or the header is not found."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return Frame(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), 0)
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            height, width = int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(data[place + 7 : place + 9], "big")
            return Frame(width, height, data[place + 9]) if width and height else None
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")  # 0xFF before a marker fills up
    return None


def read_frame(path) -> Optional[Frame]:
    """Return the `Frame` of a file, as `frame` does. Errors: OSError."""
    with open(path, "rb") as f:
        data = f.read(_HEAD)
        found = frame(data)
        return frame(data + f.read()) if found is None and len(data) == _HEAD else found


def is_whole(data):
    """Whether the bytes of a JPEG or PNG reach to its end mark; True for other formats."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" in data[-TAIL:]
    if data[:4] == b"\x89PNG":
        return b"IEND" in data[-64:]
    return bool(data)
