"""Rows of dots: a drawing for HTML, a picture for Markdown. Dots of a row stand in a slant, so that none hides."""

import math
from xml.etree import ElementTree as Tree

import numpy as np

from backend.domain.report.document import Dots, plain
from backend.domain.report.drawings import WIDTH, element
from backend.domain.report.png import Pixels
from backend.domain.report.raster import GREY, INK, LEVELS, PAPER, write
from backend.domain.report.words import number

_ROW = 64
_SLANT = 26
_MOST_TICKS = 7


def scale(figure: Dots) -> tuple[float, float, list[float]]:
    """Return both ends of the scale and its ticks: round numbers around every value."""
    values = [value for _, row, bar in figure.rows for value in (*row, *([] if bar is None else [bar]))]
    values += [] if figure.line is None else [figure.line]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.04 or abs(high) * 0.01 or 1.0
    low, high = low - room, high + room
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) <= _MOST_TICKS)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return low, high, ticks


def _digits(ticks: list[float]) -> int:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(ticks[0]) if ticks else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0


def _offset(place: int, n: int) -> float:
    """Return how far a dot stands above or below the middle of its row, -0.5 to 0.5."""
    return (place + 0.5) / n - 0.5


def drawing(figure: Dots) -> Tree.Element:
    """Return the figure as SVG."""
    low, high, ticks = scale(figure)
    left, right, above = 30.0 + 8 * max(len(name) for name, _, _ in figure.rows), 24.0, 22.0
    wide, tall = WIDTH - left - right, _ROW * len(figure.rows)

    def x(value: float) -> float:
        return left + wide * (value - low) / (high - low)

    inside = [element("path", {"class": "axis", "d": f"M{left} {above + tall}H{left + wide}"})]
    if figure.line is not None:
        at = x(figure.line)
        dash = {"class": "axis", "stroke-dasharray": "5 4", "d": f"M{at:.1f} {above}V{above + tall}"}
        anchor = "end" if at > left + wide / 2 else "start"
        inside += [element("path", dash), _text(figure.line_words, at, above - 8, anchor)]
    for place, (name, values, bar) in enumerate(figure.rows):
        middle = above + (place + 0.5) * _ROW
        inside.append(_text(name, left - 10, middle + 4, "end"))
        if bar is not None:
            inside.append(element("path", {"class": "axis", "d": f"M{x(bar):.1f} {middle - 22}V{middle + 22}"}))
        for number_, value in enumerate(values):
            y = middle + _SLANT * _offset(number_, len(values))
            round_ = {"class": "value", "cx": f"{x(value):.1f}", "cy": f"{y:.1f}", "r": "4.5"}
            square = {"class": "value", "x": f"{x(value) - 4:.1f}", "y": f"{y - 4:.1f}", "width": "8", "height": "8"}
            dot = element("circle", round_) if place else element("rect", square)
            dot.append(element("title", {}, f"{name}: {value:g}"))
            inside.append(dot)
    digits = _digits(ticks)
    inside += [_text(number(tick, digits), x(tick), above + tall + 17, "middle") for tick in ticks]
    inside.append(_text(figure.axis, left + wide / 2, above + tall + 38, "middle"))
    label = f"{figure.title}. {plain(figure.caption)}"
    box = {"viewBox": f"0 0 {WIDTH:.0f} {above + tall + 48:.0f}", "role": "img", "aria-label": label}
    return element("svg", box, element("title", {}, figure.title), *inside)


def _text(content: str, x: float, y: float, anchor: str) -> Tree.Element:
    return element("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}, content)


def picture(figure: Dots) -> Pixels:
    """Return the figure as pixels: rows from above in the order of the caption, the ticks' numbers below."""
    low, high, ticks = scale(figure)
    left, right, above, below, wide = 24, 60, 12, 36, 1040
    tall = _ROW * len(figure.rows)
    found: Pixels = np.full((above + tall + below, left + wide + right), PAPER, dtype=np.uint8)

    def x(value: float) -> int:
        return left + round(wide * (value - low) / (high - low))

    if figure.line is not None:
        at = x(figure.line)
        for top in range(above, above + tall, 10):
            found[top : top + 5, at : at + 2] = GREY
    for place, (_, values, bar) in enumerate(figure.rows):
        middle = above + place * _ROW + _ROW // 2
        colour = (LEVELS // 10, LEVELS - LEVELS // 10)[place % 2]
        if bar is not None:
            found[middle - 22 : middle + 22, x(bar) - 1 : x(bar) + 1] = colour
        for number_, value in enumerate(values):
            y = middle + round(_SLANT * _offset(number_, len(values)))
            found[y - 4 : y + 5, x(value) - 4 : x(value) + 5] = colour
    found[above + tall, left : left + wide] = INK
    digits = _digits(ticks)
    for tick in ticks:
        found[above + tall : above + tall + 5, x(tick)] = INK
        label = number(tick, digits)
        write(found, label, above + tall + 20, x(tick) - 6 * len(label))
    return found
