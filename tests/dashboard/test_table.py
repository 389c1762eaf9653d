import json
import math

import pytest

from dashboard.table import cell


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cell_without_a_number_is_still_json(value: float) -> None:
    made = cell("–", value, ends=(value, 1.0))
    assert json.loads(json.dumps(made, allow_nan=False)) == {"t": "–", "e": [None, 1.0]}


def test_a_cell_keeps_what_it_sorts_by() -> None:
    assert cell("0", 0) == {"t": "0", "v": 0}
    assert cell("a", "a", "hint") == {"t": "a", "v": "a", "h": "hint"}
