"""Figures of a report as SVG elements: text stays text and takes the page's colours; cells are an embedded picture."""

from xml.etree import ElementTree as Tree

import numpy as np

from backend.domain.report.document import Heatmap, Strip, plain
from backend.domain.report.png import data_uri, png
from backend.domain.report.raster import LEVELS, cell_size, cells, columns_of, css, every, largest_of, palette
from backend.domain.report.words import decimals_for, number, signed

WIDTH = 900.0
_STEPS = 24  # rectangles of a colour bar


def element(tag: str, attributes: dict[str, str], *inside: "Tree.Element | str") -> Tree.Element:
    """Return an element with text and elements inside, in their order."""
    made = Tree.Element(tag, attributes)
    for item in inside:
        if isinstance(item, Tree.Element):
            made.append(item)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + item
        else:
            made.text = (made.text or "") + item
    return made


def _at(**values: float) -> dict[str, str]:
    return {name: f"{value:.1f}".removesuffix(".0") for name, value in values.items()}


def _label(content: str, x: float, y: float, anchor: str = "middle", **more: str) -> Tree.Element:
    return element("text", _at(x=x, y=y) | {"text-anchor": anchor} | more, content)


def _svg(height: float, title: str, what: str, *inside: Tree.Element) -> Tree.Element:
    box = {"viewBox": f"0 0 {WIDTH:.0f} {height:.0f}", "role": "img", "aria-label": f"{title}. {what}"}
    return element("svg", box, element("title", {}, title), *inside)


def heatmap(heat: Heatmap) -> Tree.Element:
    """Return a heatmap with its axes and its scale."""
    rows, experts = heat.values.shape
    left, right, above, below = 12.0 + 8 * max(len(name) for name in heat.rows) + 22, 96.0, 6.0, 46.0
    wide = WIDTH - left - right
    width, height = cell_size(heat)
    row_height = wide / experts * height / width  # the picture keeps its shape, and dots stay round
    tall = rows * row_height
    inside = [
        *_cells(heat, left, above, wide, tall),
        element("rect", _at(x=left, y=above, width=wide, height=tall) | {"class": "axis"}),
    ]
    for row in every(rows, max(int(row_height), 1), 13):
        inside.append(_label(heat.rows[row], left - 7, above + (row + 0.5) * row_height + 4.5, "end"))
    cell = wide / experts
    for expert in every(experts, max(int(cell), 1), 26):
        inside.append(_label(str(expert), left + (expert + 0.5) * cell, above + tall + 17))
    middle = above + tall / 2
    turned = {"transform": f"rotate(-90 11 {middle:.1f})"}
    inside += [
        _label("Expert", left + wide / 2, above + tall + 38),
        _label("Layer", 11, middle + 4, **turned),
        *_scale(heat.largest, left + wide + 22, above, max(tall, 76)),
    ]
    return _svg(above + max(tall, 76) + below, heat.title, plain(heat.caption), *inside)


def _cells(heat: Heatmap, x: float, y: float, width: float, height: float) -> list[Tree.Element]:
    place = _at(x=x, y=y, width=width, height=height) | {"preserveAspectRatio": "none"}
    place |= {"style": "image-rendering: pixelated"}
    return [
        element(
            "image", place | {"class": f"in-{name}", "href": data_uri(png(cells(heat, dark=dark), palette(dark=dark)))}
        )
        for name, dark in (("light", False), ("dark", True))
    ]


def _scale(largest: float, x: float, y: float, height: float) -> list[Tree.Element]:
    step = height / _STEPS
    made = []
    for name, dark in (("light", False), ("dark", True)):
        bars = [
            element(
                "rect",
                _at(x=x, y=y + place * step, width=14, height=step + 0.5)
                | {"fill": css(round((LEVELS - 1) * (1 - place / (_STEPS - 1))), dark=dark)},
            )
            for place in range(_STEPS)
        ]
        made.append(element("g", {"class": f"in-{name}"}, *bars))
    decimals = decimals_for(largest)
    trimmed = signed(largest, decimals).rstrip("0").rstrip(".")
    return [
        *made,
        _label(trimmed, x + 20, y + 10, "start"),
        _label("0", x + 20, y + height / 2 + 4, "start"),
        _label(trimmed.replace("+", "−"), x + 20, y + height, "start"),
    ]


def strip(figure: Strip) -> Tree.Element:
    """Return a strip: one place per batch, grey up to its noise floor, a square at its value."""
    values, floors, each = columns_of(figure)
    left, above, tall, below = 62.0, 8.0, 170.0, 46.0
    wide, top = WIDTH - left - 12, largest_of(figure)
    step = wide / len(values)

    def y(value: float) -> float:
        return above + tall * (1 - value / top)

    size = min(max(step * 0.5, 1.6), 5)
    grey, dots = [], []
    for place, (value, floor) in enumerate(zip(values.tolist(), floors.tolist(), strict=True)):
        x = left + place * step
        if not np.isnan(floor):
            grey.append(f"M{x:.1f} {above + tall:.1f}V{y(floor):.1f}h{step:.2f}V{above + tall:.1f}z")
        if not np.isnan(value):
            dots.append(f"M{x + (step - size) / 2:.1f} {y(value) - size / 2:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}z")
    inside = [
        element("path", {"class": "floor", "d": "".join(grey) or "M0 0"}),
        element("path", {"class": "value", "d": "".join(dots) or "M0 0"}),
        element("path", {"class": "axis", "d": f"M{left} {above}V{above + tall}H{left + wide}"}),
        _label(number(top, decimals_for(top)).rstrip("0").rstrip("."), left - 7, above + 10, "end"),
        _label("0", left - 7, above + tall, "end"),
    ]
    for place in every(len(values), max(int(step), 1), 40):
        inside.append(_label(str(place * each), left + (place + 0.5) * step, above + tall + 17))
    inside.append(_label("Batch", left + wide / 2, above + tall + 38))
    return _svg(above + tall + below, figure.title, plain(figure.caption), *inside)


def mark() -> Tree.Element:
    """Return the report's sign: routes from a router to chosen experts."""
    lines = "M3 11 L17 4 M3 11 L17 11 M3 11 L17 18"
    dots = [
        element("circle", _at(cx=x, cy=y, r=r) | {"fill": "currentColor"})
        for x, y, r in ((3, 11, 2.6), (18, 4, 2.6), (18, 11, 1.7), (18, 18, 2.6))
    ]
    path = element("path", {"d": lines, "stroke": "currentColor", "stroke-width": "1.4", "fill": "none"})
    return element("svg", {"width": "22", "height": "22", "viewBox": "0 0 22 22", "aria-hidden": "true"}, path, *dots)
