"""A report as one HTML file that loads nothing: style and pictures are inside, there is no script and no address.

Built as a tree and written out by xml.etree, which escapes every text and attribute. A policy in the file's head
forbids the browser to load or run anything, whatever the text holds.
"""

from importlib.resources import files
from xml.etree import ElementTree as Tree

from backend.domain.report import dots, drawings
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
)
from backend.domain.report.drawings import element

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def as_html(document: Document) -> str:
    """Return the whole file."""
    root = element("html", {"lang": "en"}, _head(document), _body(document))
    return "<!DOCTYPE html>\n" + Tree.tostring(root, encoding="unicode", method="html") + "\n"


def _head(document: Document) -> Tree.Element:
    style = files("backend.domain.report").joinpath("style.css").read_text(encoding="utf-8")
    return element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "generator", "content": document.made_with}),
        element("title", {}, document.title),
        element("link", {"rel": "icon", "href": "data:,"}),
        element("style", {}, "\n" + style),
    )


def _body(document: Document) -> Tree.Element:
    facts = [
        element("div", {}, element("dt", {}, name), element("dd", {}, *_inline((value,))))
        for name, value in document.facts
    ]
    links = [element("a", {"href": f"#{section.key}"}, section.title) for section in document.sections]
    header = element(
        "header",
        {},
        element("p", {"class": "mark"}, drawings.mark(), "Routeprint report"),
        element("h1", {}, document.title),
        element("p", {"class": "subtitle"}, document.subtitle),
        element("dl", {"class": "facts"}, *facts),
        element("div", {"class": "abstract", "id": "abstract"}, element("p", {}, *_inline(document.abstract))),
        element("nav", {"aria-label": "Sections"}, *links),
    )
    sections = [_section(section, 2) for section in document.sections]
    footer = element("footer", {}, *_inline(document.footer))
    return element("body", {}, element("main", {}, header, *sections, footer))


def _section(section: Section, level: int) -> Tree.Element:
    return element(
        "section",
        {"id": section.key},
        element(f"h{level}", {}, section.title),
        *(_block(block) for block in section.blocks),
        *(_section(part, level + 1) for part in section.parts),
    )


def _inline(text: Text) -> list[Tree.Element | str]:
    return [_run(run) for run in text]


def _run(run: Run) -> Tree.Element | str:
    if isinstance(run, Strong):
        return element("strong", {}, run.text)
    if isinstance(run, Code):
        return element("code", {}, run.text)
    return run


def _block(block: Block) -> Tree.Element:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Heatmap):
        return _figure(block, drawings.heatmap(block))
    if isinstance(block, Strip):
        return _figure(block, drawings.strip(block))
    if isinstance(block, Dots):
        return _figure(block, dots.drawing(block))
    return _words(block)


def _words(block: Paragraph | Bullets | Listing | Fold) -> Tree.Element:
    if isinstance(block, Paragraph):
        return element("p", {}, *_inline(block.text))
    if isinstance(block, Bullets):
        return element("ul", {}, *(element("li", {}, *_inline(item)) for item in block.items))
    if isinstance(block, Listing):
        return element("pre", {"tabindex": "0"}, element("code", {}, "\n".join(block.lines)))
    inside = [_block(inner) for inner in block.blocks]
    return element("details", {}, element("summary", {}, block.title), *inside)


def _table(table: Table) -> Tree.Element:
    sides = [{"class": "right"} if column.align == "right" else {} for column in table.columns]
    heads = [
        element("th", side | {"scope": "col"}, column.title) for side, column in zip(sides, table.columns, strict=True)
    ]
    rows = [
        element("tr", {}, *(element("td", side, *_inline((value,))) for side, value in zip(sides, row, strict=True)))
        for row in table.rows
    ]
    found = element(
        "table",
        {"id": table.key},
        element("caption", {}, table.caption),
        element("thead", {}, element("tr", {}, *heads)),
        element("tbody", {}, *rows),
    )
    scroll = element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.caption}, found)
    if not table.note:
        return scroll
    return element("div", {}, scroll, element("p", {"class": "note"}, *_inline(table.note)))


def _figure(figure: Heatmap | Strip | Dots, drawing: Tree.Element) -> Tree.Element:
    caption = element("figcaption", {}, element("strong", {}, f"{figure.title}. "), *_inline(figure.caption))
    plot = element("div", {"class": "plot", "tabindex": "0", "role": "region", "aria-label": figure.title}, drawing)
    return element("figure", {"id": figure.key}, plot, caption)
