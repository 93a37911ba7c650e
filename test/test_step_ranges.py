"""Steps as people write them."""

import pytest

from mtc import config as configuration
from mtc import step_ranges
from mtc.errors import UserError


def test_a_span_is_half_open_and_nothing_is_none():
    assert step_ranges.span("100:110", "k") == range(100, 110)
    assert step_ranges.span(" 1 : 2 ", "k") == range(1, 2)
    assert step_ranges.span("", "k") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("100", "expected FIRST:END such as 100:110, which are steps 100 to 109"),
        ("a:b", "expected FIRST:END"),
        ("-1:3", "expected FIRST:END"),
        ("0:3", "steps are counted from 1"),
        ("5:5", "the end must be above the first step; 5:6 is step 5 alone"),
        ("9:5", "the end must be above the first step"),
        ("1:102", "101 steps are more than 100"),
    ],
)
def test_a_span_that_is_none_gets_a_sentence_with_its_key(text, sentence):
    with pytest.raises(UserError, match="^--set train.profile|^train.profile={}: {}".format(text, sentence)):
        configuration.load("demo", ["train.profile=" + text])


def test_chosen_steps_are_ascends_form():
    assert step_ranges.chosen("0|5|10-20", "k") == [range(0, 1), range(5, 6), range(10, 21)]
    assert step_ranges.chosen("", "k") == []
    assert configuration.load("demo", ["dump.steps=7"]).dump.steps == "7"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0,5", "'0,5' is neither a step nor a range"),
        ("0||5", "'' is neither a step nor a range"),
        ("20-10", "the range 20-10 does not ascend"),
        ("5-5", "the range 5-5 does not ascend"),
        ("|".join(["1"] * 101), "101 steps and ranges are more than 100"),
    ],
)
def test_chosen_steps_that_are_none_get_a_sentence_with_their_key(text, sentence):
    with pytest.raises(UserError, match="dump.steps=.*: {}".format(sentence)):
        configuration.load("demo", ["dump.steps=" + text])
