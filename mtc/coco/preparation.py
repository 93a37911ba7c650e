"""What is made of each image: the records of the people who are accepted, and its masks.

Images are independent of each other, so that any number of processes, machines and pieces gives the same bytes.
"""

import os
from collections import Counter
from typing import Dict, List, NamedTuple

from mtc.coco import annotations, masks, pictures, records


class Prepared(NamedTuple):
    """What was made of an image. Neither records nor a mask where it was left out."""

    number: int
    """In `annotations.Index.images`."""
    image_id: int
    kept: bool
    records: List[bytes]
    """`records.line` of each person who is accepted."""
    mask: bytes
    """`masks.line`; b"" where the masks are PNGs."""


class Batch(NamedTuple):
    """What was made of some images."""

    images: List[Prepared]
    counts: Dict[str, int]
    """people: annotations; written, kept: PNG files; and people who were rejected, by the reason."""
    findings: annotations.Findings


class Preparation:
    """Prepares the images of a split: called with their numbers, returns a `Batch`. It writes PNGs, where these are wanted, and nothing else."""

    def __init__(self, root, split, index, png, elsewhere=()):
        """index: `annotations.Index`; png: whether masks become PNGs; elsewhere: ids of images of the split that must share none with this one."""
        self._root, self._split, self._index, self._png, self._elsewhere = root, split, index, png, frozenset(elsewhere)

    def __call__(self, numbers):
        """Prepare these images. Errors: OSError where masks cannot be written."""
        batch = Batch([], Counter(), annotations.Findings())
        with open(self._index.path, "rb") as f:
            for number in numbers:
                batch.images.append(self._image(f, number, batch))
        return batch

    def _image(self, f, number, batch):
        image = self._index.image(f, number, batch.findings)
        batch.counts["people"] += len(image.people)
        if not self._is_usable(image, number, batch.findings):
            return Prepared(number, image.id, False, [], b"")
        accepted = records.select_of(image, number + 1, batch.counts)
        mask = b""
        if self._png:
            batch.counts.update(masks.write_image(os.path.join(self._root, masks.FOLDER), self._split, image))
        else:
            mask = masks.line(image)
        return Prepared(number, image.id, True, [records.line(one) for one in accepted], mask)

    def _is_usable(self, image, number, findings):
        """Whether the image can be trained on, as far as its file's header tells."""
        place, what = ("image file", number), "image {}".format(image.id)
        if image.id in self._elsewhere:
            findings.damage("image of train2017 that val2017 has too, left out of train2017", place, what)
            return False
        try:
            frame = pictures.read_frame(os.path.join(self._root, self._split + "2017", image.file_name))
        except FileNotFoundError:
            findings.remark("image file that is not there", place, what)
            return True
        except OSError as error:
            findings.damage("image file that cannot be read, left out", place, "{}: {}".format(what, error.strerror or error))
            return False
        if frame is None:
            findings.damage("image file that is neither JPEG nor PNG, left out", place, what)
            return False
        if (frame.width, frame.height) != (image.width, image.height):
            text = "{}: {} x {} pixels, annotated {} x {}"
            findings.damage(
                "image file of another size than annotated, left out", place, text.format(what, frame.width, frame.height, image.width, image.height)
            )
            return False
        if frame.components not in (0, 3):
            kind = {1: "grey", 4: "CMYK"}.get(frame.components, "{}-component".format(frame.components))
            findings.remark("{} JPEG, used".format(kind), place, what)
        return True
