"""Downloads, extraction and preprocessing that are killed end as if nothing had been."""

import pytest

from benchmarks import kills


@pytest.mark.last
@pytest.mark.timeout(600)
def test_thirty_kills_leave_no_trace(tmp_path):
    figures = kills.run(str(tmp_path), 30, 7)
    assert figures["kills"] == 30
    assert set(figures["moments"]) == {"arriving", "unpacking", "masks", "any"}
