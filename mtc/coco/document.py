"""Goes through COCO's JSON piece by piece: what is held is one block of the file and one element, not the gigabyte that the parsed document takes.

An annotation is known by where it lies in the file, so that whoever wants it later (a worker, for one image) parses these bytes again. Bytes are read
as Latin-1, in which a character is a byte and JSON's own characters are themselves; what is in the quotes of an element is decoded when it is loaded.
"""

import json
import re
from typing import Any, NamedTuple

from mtc.errors import UserError

BLOCK = 4 << 20
"""Bytes that are read at a time."""

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Element(NamedTuple):
    """An element of one of the document's lists."""

    key: str
    """Of the list: "images", "annotations", ..."""
    index: int
    value: Any
    """As parsed; texts with characters beyond ASCII only by `load`."""
    start: int
    length: int
    """Where it lies in the file, in bytes."""


class Text:
    """A window on the file that moves forward."""

    def __init__(self, f):
        self._f, self._window, self._begin, self._at, self._ended = f, "", 0, 0, False

    @property
    def place(self):
        """Bytes before what comes next."""
        return self._begin + self._at

    def next(self):
        """Return the next character that is no space, "" at the end."""
        while True:
            self._at = _SPACE.match(self._window, self._at).end()
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def skip(self, expected):
        """Go over one of these characters and return it."""
        found = self.next()
        if not found or found not in expected:
            raise ValueError("expected one of {} at byte {}".format(" ".join(expected), self.place))
        self._at += 1
        return found

    def value(self):
        """Return the parsed value that comes next."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                if end < len(self._window) or not self._more():  # a number may go on in the next block
                    self._at = end
                    return value
            except ValueError as error:
                if not self._more():
                    raise ValueError("{} at byte {}".format(getattr(error, "msg", error), self._begin + getattr(error, "pos", self._at))) from None

    def _more(self):
        block = "" if self._ended else self._f.read(BLOCK).decode("latin-1")
        self._ended = not block
        if block:
            self._window, self._begin, self._at = self._window[self._at :] + block, self._begin + self._at, 0
        return bool(block)


def elements(path, wanted, others=None):
    """Yield the `Element`s of the document's lists `wanted`, in the order of the file. others: a dictionary for the values of keys that it lacks.

    Errors: UserError where it is no JSON object, or one of the keys is missing or no list.
    """
    found = set()
    try:
        with open(path, "rb") as f:
            text = Text(f)
            if text.next() == "{":
                text.skip("{")
                while text.next() != "}":
                    key = text.value()
                    text.skip(":")
                    if key in wanted and text.next() == "[":
                        found.add(key)
                        yield from _list(text, key)
                    else:
                        value = text.value()
                        if others is not None:
                            others.setdefault(key, value)
                    if text.next() != "}":
                        text.skip(",")
                text.skip("}")
            else:
                text.value()
            if text.next():
                raise ValueError("more than one document, at byte {}".format(text.place))
    except FileNotFoundError:
        raise UserError("{} does not exist: fetch COCO 2017 (python -m tasks.fetch coco) or set data.root to its folder".format(path)) from None
    except OSError as error:
        raise UserError("{} cannot be read: {}; check data.root and its permissions".format(path, error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        raise UserError("{} is not valid JSON ({}): it is truncated or damaged, fetch it again".format(path, error)) from None
    for key in wanted:
        if key not in found:
            raise UserError("{}: '{}' is missing or not a list: expected COCO's person_keypoints_*.json".format(path, key))


def load(f, start, length):
    """Return the element that lies there in the open file, with its texts decoded."""
    f.seek(start)
    return json.loads(f.read(length).decode("utf-8", "replace"))


def _list(text, key):
    text.skip("[")
    index = 0
    while text.next() != "]":
        if index:
            text.skip(",")
            text.next()
        start = text.place
        value = text.value()
        yield Element(key, index, value, start, text.place - start)
        index += 1
    text.skip("]")
