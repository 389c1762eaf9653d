"""A report as blocks: what its two forms, HTML and Markdown, are both made of.

Text in a block is text, never markup: whoever writes a form out escapes it. Not covered: what a report says (the other
modules of this folder), how a form looks (as_html.py, as_markdown.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Strong:
    """Text that carries the weight of its sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A name, a digest, a token: shown in the typewriter font."""

    text: str


Run = str | Strong | Code
Text = tuple[Run, ...]
"""Running text."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph."""

    text: Text


@dataclass(frozen=True, slots=True)
class Bullets:
    """An unordered list."""

    items: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Lines to paste: commands, code."""

    lines: tuple[str, ...]
    language: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Numbers stand on the right."""

    title: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption. `key`: a name for machines (HTML: the element's id), so that figures can be read back."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Run, ...], ...]
    note: Text = ()


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """A matrix of differences as colours: one row per MoE site, one column per expert, a symmetric scale.

    values: [site, expert], NaN where there is no expert. marked: [site, expert], cells that get a dot. rows: a name per
    row. largest: end of the scale, > 0. title: what the picture shows; caption: how to read it.
    """

    key: str
    title: str
    caption: Text
    values: NDArray[np.float64]
    marked: NDArray[np.bool_]
    rows: tuple[str, ...]
    largest: float


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """A value per batch, and beside each how large chance alone gets.

    values, floors: [batch], NaN where there is none.
    """

    key: str
    title: str
    caption: Text
    values: NDArray[np.float64]
    floors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dots:
    """Rows of dots on one scale, one dot a value.

    rows: (name, values, where a bar stands: their mean, say, or None). line: a value that crosses all rows, None for
    none; line_words: what it is. axis: what the scale measures.
    """

    key: str
    title: str
    caption: Text
    rows: tuple[tuple[str, tuple[float, ...], float | None], ...]
    line: float | None
    line_words: str
    axis: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that stay closed until they are asked for."""

    title: str
    blocks: "tuple[Block, ...]"


Block = Paragraph | Bullets | Listing | Table | Heatmap | Strip | Dots | Fold


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it. `key`: its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    parts: "tuple[Section, ...]" = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report. facts: (name, value) pairs below the title; abstract: its one paragraph; made_with: our name."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, Run], ...]
    abstract: Text
    sections: tuple[Section, ...]
    footer: Text
    made_with: str

    def walk(self) -> Iterator[Section]:
        """Yield every section in reading order."""
        waiting = list(reversed(self.sections))
        while waiting:
            section = waiting.pop()
            yield section
            waiting.extend(reversed(section.parts))


def text(*runs: Run) -> Text:
    """Return running text."""
    return runs


def plain(runs: Text) -> str:
    """Return running text without its emphasis."""
    return "".join(run if isinstance(run, str) else run.text for run in runs)
