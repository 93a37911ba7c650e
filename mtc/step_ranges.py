"""Steps as people write them in the configuration: `100:110`, one range as Python counts it, and `0|5|10-20`, Ascend's form for single steps
and ranges with both ends.
"""

import re

from mtc.errors import UserError

MOST = 100
"""Steps of a `span`, and steps and ranges of `chosen` (as CANN allows)."""


def span(text, key):
    """Return range(100, 110) of "100:110", and None of "". Errors: UserError that names the key."""
    if not text:
        return None
    found = re.fullmatch(r"\s*([0-9]+)\s*:\s*([0-9]+)\s*", text)
    if not found:
        raise UserError("{}={}: expected FIRST:END such as 100:110, which are steps 100 to 109".format(key, text))
    first, end = int(found.group(1)), int(found.group(2))
    if first < 1:
        raise UserError("{}={}: steps are counted from 1".format(key, text))
    if first >= end:
        raise UserError("{}={}: the end must be above the first step; {}:{} is step {} alone".format(key, text, first, first + 1, first))
    if end - first > MOST:
        raise UserError("{}={}: {} steps are more than {}".format(key, text, end - first, MOST))
    return range(first, end)


def chosen(text, key):
    """Return the list of ranges of "0|5|10-20", both ends of each in it, and [] of "". Errors: UserError that names the key."""
    parts = text.split("|") if text else []
    if len(parts) > MOST:
        raise UserError("{}={}: {} steps and ranges are more than {}".format(key, text, len(parts), MOST))
    ranges = []
    for part in parts:
        found = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if not found:
            raise UserError("{}={}: '{}' is neither a step nor a range; expected something like 0|5|10-20".format(key, text, part.strip()))
        first, last = int(found.group(1)), int(found.group(2) or found.group(1))
        if found.group(2) and first >= last:
            raise UserError("{}={}: the range {} does not ascend".format(key, text, part.strip()))
        ranges.append(range(first, last + 1))
    return ranges
