import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.report.document import Dots, text
from backend.domain.report.dots import drawing, picture, scale
from backend.domain.report.raster import PAPER

values = st.lists(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6)), max_size=12)


def dots(first: list[float], second: list[float], line: float | None = None) -> Dots:
    rows = tuple((name, tuple(own), own[0] if own else None) for name, own in (("kept", first), ("mixed", second)))
    return Dots("d", "Dots", text("so"), rows, line, "before", "axis")


@given(values, values, st.none() | st.floats(-1e3, 1e3))
def test_every_value_lies_on_the_scale_and_has_its_dot(
    first: list[float], second: list[float], line: float | None
) -> None:
    figure = dots(first, second, line)
    low, high, ticks = scale(figure)
    assert all(low < value < high for value in (*first, *second))
    assert len(ticks) <= 8
    drawn = drawing(figure)
    assert len(drawn.findall("rect")) == len(first)
    assert len(drawn.findall("circle")) == len(second)
    assert picture(figure).dtype == np.uint8


def test_dots_of_the_same_value_stand_beside_one_another() -> None:
    drawn = drawing(dots([1.0] * 5, []))
    assert len({(rect.get("x"), rect.get("y")) for rect in drawn.findall("rect")}) == 5


def test_a_picture_of_two_rows_has_ink_in_both() -> None:
    found = picture(dots([0.0, 1.0], [0.5]))
    middle = 12 + 64
    assert (found[12:middle] != PAPER).any()
    assert (found[middle : middle + 60] != PAPER).any()
