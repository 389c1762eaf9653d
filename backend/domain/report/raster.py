"""Figures as pixels: the cells of a heatmap, and whole figures with axes for Markdown, which has no drawings.

Colours: ColorBrewer's RdBu, told apart with any colour vision; marks are dots, black or white by what they stand on.
"""

import numpy as np
from numpy.typing import NDArray

from backend.domain.report.document import Heatmap, Strip
from backend.domain.report.png import Pixels
from backend.domain.report.words import decimals_for, number, signed

LEVELS = 201
"""Colours of the scale; the middle one is zero."""
ABSENT, PAPER, INK, WHITE, GREY = range(LEVELS, LEVELS + 5)
MOST_COLUMNS = 1000
"""A strip of more batches shows the largest of several in each column."""

_RDBU = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"
_RDBU_DARK = "a6d3f2 74b0e4 4a88be 2f6496 22405c 20262c 5a2c28 96453a c45f4e f08573 ffc2b0"
_DIGITS = {
    "0": "7 5 5 5 7",
    "1": "2 6 2 2 7",
    "2": "7 1 7 4 7",
    "3": "7 1 7 1 7",
    "4": "5 5 7 1 1",
    "5": "7 4 7 1 7",
    "6": "7 4 7 5 7",
    "7": "7 1 1 2 2",
    "8": "7 5 7 5 7",
    "9": "7 5 7 1 7",
    "+": "0 2 7 2 0",
    "−": "0 0 7 0 0",
    ".": "0 0 0 0 2",
}


def palette(*, dark: bool = False) -> NDArray[np.uint8]:
    """Return the colours [colour, 3]: the scale from safe to unsafe, then ABSENT, PAPER, INK, WHITE, GREY."""
    stops = np.array([_rgb(stop) for stop in (_RDBU_DARK if dark else _RDBU).split()], dtype=np.float64)
    place = np.linspace(0, len(stops) - 1, LEVELS)
    scale = np.stack([np.interp(place, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    others = ("39424b 12161a e4e2dc ffffff 6b747d" if dark else "d0cdc6 ffffff 111111 ffffff c9c9c9").split()
    return np.vstack([np.rint(scale), [_rgb(other) for other in others]]).astype(np.uint8)


def _rgb(text: str) -> list[int]:
    return [int(text[place : place + 2], 16) for place in (0, 2, 4)]


def css(level: int, *, dark: bool = False) -> str:
    """Return a colour of the palette as CSS."""
    return "#" + "".join(f"{channel:02x}" for channel in palette(dark=dark)[level].tolist())


def cell_size(heat: Heatmap) -> tuple[int, int]:
    """Return width and height of one cell in pixels."""
    rows, experts = heat.values.shape
    return max(1120 // experts, 5), min(max(900 // rows, 8), 44)


def levels(heat: Heatmap) -> Pixels:
    """Return the colour of every cell [site, expert]."""
    middle = LEVELS // 2
    share = np.clip(np.nan_to_num(heat.values) / heat.largest, -1, 1)
    found = np.where(np.isnan(heat.values), ABSENT, np.rint(middle + middle * share))
    pixels: Pixels = found.astype(np.uint8)
    return pixels


def cells(heat: Heatmap, *, dark: bool = False) -> Pixels:
    """Return the picture of the cells alone, with a dot in each marked one."""
    width, height = cell_size(heat)
    own = levels(heat)
    picture = own.repeat(height, axis=0).repeat(width, axis=1)
    if min(width, height) >= 12:
        picture[height - 1 :: height] = PAPER
        picture[:, width - 1 :: width] = PAPER
    size = max(2, min(width, height) // 3)
    bright = palette(dark=dark)[own].astype(np.float64) @ (0.2126, 0.7152, 0.0722) > 128
    for row, expert in np.argwhere(heat.marked & ~np.isnan(heat.values)).tolist():
        top, left = row * height + (height - size) // 2, expert * width + (width - size) // 2
        ink = (INK if bright[row, expert] else WHITE) if not dark else (PAPER if bright[row, expert] else WHITE)
        picture[top : top + size, left : left + size][_disc(size)] = ink
    return picture


def _disc(size: int) -> NDArray[np.bool_]:
    away = np.arange(size) - (size - 1) / 2
    disc: NDArray[np.bool_] = away[:, None] ** 2 + away**2 <= (size / 2) ** 2 + 0.3
    return disc


def whole_heatmap(heat: Heatmap) -> Pixels:
    """Return the picture with the layers' numbers on the left, the experts' below and the scale on the right."""
    inner = cells(heat)
    width, height = cell_size(heat)
    rows, columns = inner.shape
    decimals = decimals_for(heat.largest)
    left, right, below, above = 60, 150, 32, 12
    picture = np.full((above + max(rows, 80) + below, left + columns + right), PAPER, dtype=np.uint8)
    picture[above : above + rows, left : left + columns] = inner
    for row in every(heat.values.shape[0], height, 20):
        layer = heat.rows[row].partition(" ")[0]
        write(picture, layer, above + row * height + height // 2, left - 8, end=True)
    for expert in every(heat.values.shape[1], width, 42):
        write(picture, str(expert), above + rows + 16, left + expert * width + width // 2 + 10, end=True)
    bar = np.linspace(LEVELS - 1, 0, max(rows, 80)).round().astype(np.uint8)
    picture[above : above + len(bar), left + columns + 20 : left + columns + 38] = bar[:, None]
    for share, value in ((0.0, heat.largest), (0.5, 0.0), (1.0, -heat.largest)):
        label = signed(value, decimals) if value else "0"
        write(picture, label, above + 8 + int(share * (len(bar) - 16)), left + columns + 46)
    return picture


def whole_strip(strip: Strip) -> Pixels:
    """Return the picture of a strip: grey up to the noise floor, a dot at the value."""
    values, floors, _ = columns_of(strip)
    width, height, left, above = min(max(900 // len(values), 2), 60), 200, 90, 12
    top = largest_of(strip)
    picture = np.full((above + height + 16, left + len(values) * width + 12), PAPER, dtype=np.uint8)
    for place, (value, floor) in enumerate(zip(values.tolist(), floors.tolist(), strict=True)):
        x, y = left + place * width, above + height
        if not np.isnan(floor):
            picture[y - round(floor / top * height) : y, x : x + width] = GREY
        if not np.isnan(value):
            at = max(y - round(value / top * height), above + 1)
            half = 1 if width < 8 else 3
            middle = x + width // 2
            picture[max(at - half, 0) : at + half + 1, middle - half : middle + half + 1] = INK
    picture[above + height, left:] = INK
    write(picture, number(top, decimals_for(top)), above + 8, left - 8, end=True)
    write(picture, "0", above + height - 4, left - 8, end=True)
    return picture


def columns_of(strip: Strip) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return values, floors and how many batches share a column (of those, each time the largest)."""
    each = -(-len(strip.values) // MOST_COLUMNS)
    starts = np.arange(0, len(strip.values), each)
    values, floors = (np.fmax.reduceat(own, starts) for own in (strip.values, strip.floors))
    return values, floors, each


def largest_of(strip: Strip) -> float:
    """Return the end of a strip's scale."""
    both = np.concatenate([strip.values, strip.floors])
    return round_up(float(np.nanmax(both)) if np.isfinite(both).any() else 1.0)


def round_up(value: float) -> float:
    """Return the next round number at or above a value, so that scales end on readable ticks; 1 for nothing."""
    if not value > 1e-12:  # rates are no finer
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(s for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * power >= value * (1 - 1e-9)) * power)


def every(n: int, size: int, room: int) -> range:
    """Return which of n ticks to name, `size` pixels apart, when each name needs `room` pixels."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000)
    return range(0, n, next((step for step in steps if step * size >= room), steps[-1]))


def write(picture: Pixels, text: str, middle: int, x: int, *, end: bool = False) -> None:
    """Write digits into a picture, around the line `middle`, from x on (or up to x)."""
    scale = 3
    step = 4 * scale
    x = x - len(text) * step + scale if end else x
    for place, char in enumerate(text):
        lines = [int(line) for line in _DIGITS.get(char, _DIGITS["."]).split()]
        glyph = np.array([[line >> bit & 1 for bit in (2, 1, 0)] for line in lines], dtype=bool)
        glyph = glyph.repeat(scale, axis=0).repeat(scale, axis=1)
        top, left = middle - glyph.shape[0] // 2, x + place * step
        there = picture[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        if top >= 0 and left >= 0 and there.shape == glyph.shape:
            there[glyph] = INK
