import pytest

from mtc.report import document


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (0.0100449, "0.0100"), (3.14159, "3.14"), (100.2, "100"), (12345.6, "12,346"), (-0.25, "-0.250")]
)
def test_numbers_have_three_digits_and_no_powers_of_ten_where_they_can_do_without(value, text):
    assert document.number(value) == text


def test_sizes_durations_and_settings_read_as_people_write_them():
    assert [document.size(n) for n in (999, 15_900_000, 2.5e12)] == ["999 B", "15.9 MB", "2500.0 GB"]
    assert [document.duration(s) for s in (12.34, 200, 3720)] == ["12.3 s", "3 min 20 s", "1 h 02 min"]
    assert [document.setting(v) for v in (True, 1e-4, [1, 2], {"coco": 1}, "", [])] == ["true", "0.0001", "1, 2", "coco: 1", "none", "none"]


def test_a_cell_of_a_table_stays_a_cell():
    assert document.cell("a|b\n<c>") == "a\\|b &lt;c>"
