"""Which checkpoints may go."""

import pytest

from mtc.storage.retention import superfluous


@pytest.mark.parametrize(
    ("steps", "options", "gone"),
    [
        ([], {"last": 2}, []),
        ([10, 20, 30, 40], {"last": 2}, [10, 20]),
        ([40, 10, 30, 20], {"last": 1}, [10, 20, 30]),
        ([10, 20, 30], {"last": 0}, []),
        ([10, 20, 30], {"last": 5}, []),
        ([10, 20, 25, 30, 40, 45], {"last": 1, "every": 20}, [10, 25, 30]),
        ([110, 120, 125, 130, 140, 145], {"last": 1, "every": 20, "start": 100}, [110, 125, 130]),
        ([10, 20, 30, 40], {"last": 1, "keep": {10, 99}}, [20, 30]),
    ],
)
def test_only_what_no_rule_keeps_goes(steps, options, gone):
    assert superfluous(steps, **options) == gone


def test_the_newest_always_stays():
    for last in range(4):
        assert 9 not in superfluous(range(10), last)
