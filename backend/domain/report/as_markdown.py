"""A report as Markdown (GitHub's dialect): the same text, tables and figures as the HTML.

Every character of a text that Markdown could read as markup is escaped. Pictures stand at the end of the file, so that
the text stays readable as it is.
"""

import re
from collections.abc import Iterator

from backend.domain.report.document import (
    Block,
    Bullets,
    Code,
    Document,
    Dots,
    Fold,
    Heatmap,
    Listing,
    Paragraph,
    Run,
    Section,
    Strip,
    Strong,
    Table,
    Text,
    plain,
)
from backend.domain.report.dots import picture
from backend.domain.report.png import data_uri, png
from backend.domain.report.raster import palette, whole_heatmap, whole_strip

_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&!]|(?<![^\W_])_|_(?![^\W_])|(?<=\w):(?=//)|(?<=www)\.|(?<=WWW)\.|#(?=#*\s*$)")
_AT_START = re.compile(r"^(\s*)([#+\-=>]|\d+(?=[.)](?:\s|$)))")
_BACKTICKS = re.compile("`+")


def as_markdown(document: Document) -> str:
    """Return the whole file."""
    pictures: dict[str, str] = {}
    facts = " · ".join(f"{escaped(name)}: {_run(value)}" for name, value in document.facts)
    parts = [f"# {escaped(document.title)}", escaped(document.subtitle), facts]
    parts += ["## Abstract", _inline(document.abstract)]
    for section in document.sections:
        parts += _section(section, 2, pictures)
    parts += ["---", _inline(document.footer)]
    parts += [f"[{key}]: {uri}" for key, uri in pictures.items()]
    return "\n\n".join(parts) + "\n"


def escaped(text: str, *, start: bool = True) -> str:
    """Return text that Markdown shows as it is. start: it may begin a line, where more characters mean something."""
    flat = " ".join(text.splitlines())
    found = _SPECIAL.sub(lambda match: f"\\{match[0]}", flat)
    if start:
        found = _AT_START.sub(
            lambda match: match[1] + (match[2] + "\\" if match[2].isdigit() else "\\" + match[2]), found
        )
    return found


def _inline(text: Text) -> str:
    return "".join(_run(run, start=not place) for place, run in enumerate(text))


def _run(run: Run, *, start: bool = True) -> str:
    if isinstance(run, Strong):
        bare = run.text.strip()  # a space inside the stars would keep them from being emphasis
        before, _, after = run.text.partition(bare)
        return f"{before}**{escaped(bare, start=False)}**{after}"
    if isinstance(run, Code):
        return code(run.text)
    return escaped(run, start=start)


def code(text: str) -> str:
    """Return a code span: its fence is longer than any run of backticks inside."""
    flat = " ".join(text.splitlines())
    if not flat.strip():
        return f"“{flat}”"
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(flat)), default=0))
    pad = " " if flat.startswith(("`", " ")) or flat.endswith(("`", " ")) else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def _section(section: Section, level: int, pictures: dict[str, str]) -> Iterator[str]:
    yield f"{'#' * level} {escaped(section.title)}"
    for block in section.blocks:
        yield from _block(block, pictures)
    for part in section.parts:
        yield from _section(part, level + 1, pictures)


def _block(block: Block, pictures: dict[str, str]) -> Iterator[str]:
    match block:
        case Paragraph():
            yield _inline(block.text)
        case Bullets():
            yield "\n".join(f"- {_inline(item)}" for item in block.items)
        case Listing():
            fence = "`" * max(
                3, 1 + max((len(run) for line in block.lines for run in _BACKTICKS.findall(line)), default=0)
            )
            yield "\n".join([fence + block.language, *block.lines, fence])
        case Table():
            yield from _table(block)
        case Heatmap():
            yield from _figure(block, data_uri(png(whole_heatmap(block), palette())), pictures)
        case Strip():
            yield from _figure(block, data_uri(png(whole_strip(block), palette())), pictures)
        case Dots():
            yield from _figure(block, data_uri(png(picture(block), palette())), pictures)
        case Fold():
            yield f"**{escaped(block.title)}**"
            for inner in block.blocks:
                yield from _block(inner, pictures)


def _table(table: Table) -> Iterator[str]:
    heads = [_cell(column.title) for column in table.columns]
    rules = ["---:" if column.align == "right" else "---" for column in table.columns]
    rows = [heads, rules, *([_cell(value) for value in row] for row in table.rows)]
    yield f"**{escaped(table.caption)}**"
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if table.note:
        yield _inline(table.note)


def _cell(value: Run) -> str:
    if isinstance(value, Code):
        return code(value.text).replace("|", "\\|")
    return _run(value, start=False)


def _figure(figure: Heatmap | Strip | Dots, uri: str, pictures: dict[str, str]) -> Iterator[str]:
    pictures[figure.key] = uri
    alt = f"{figure.title}. {plain(figure.caption)}"
    yield f"![{escaped(alt, start=False)}][{figure.key}]"
    yield f"**{escaped(figure.title)}.** {_inline(figure.caption)}"
