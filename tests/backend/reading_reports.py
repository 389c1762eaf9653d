"""Reads reports back: tables by key, links, and the numbers as they were written."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

Rows = list[list[str]]


class Page(HTMLParser):
    """An HTML report: its tables by id, every element, and every value that could load something."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, Rows] = {}
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.paragraphs: list[str] = []
        self._open: list[str] | None = None
        self._rows: Rows | None = None
        self._cell: list[str] | None = None
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        self.loads += [
            value
            for name, value in found.items()
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "ping")
        ]
        assert not [name for name in found if name.startswith("on")], found
        if tag in ("p", "li", "pre"):
            self._open = []
        if tag == "table":
            self._rows = self.tables[found["id"]] = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None and self._rows:
            self._rows[-1].append("".join(self._cell))
            self._cell = None
        if tag in ("p", "li", "pre") and self._open is not None:
            self.paragraphs.append("".join(self._open))
            self._open = None

    def handle_data(self, data: str) -> None:
        self.text += data
        for place in (self._cell, self._open):
            if place is not None:
                place.append(data)


def markdown_tokens(content: str) -> list:
    """Every token of a Markdown report as GitHub would read it: tables, raw HTML and bare links allowed."""
    flat = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(content):
        flat += [token, *(token.children or [])]
    return flat


def markdown_paragraphs(content: str) -> list[str]:
    """The text of every paragraph, list item and listing, without emphasis."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(content):
        if token.type == "inline":
            found.append("".join(child.content for child in token.children or []))
        elif token.type == "fence":
            found.append(token.content.rstrip("\n"))
    return found


def markdown_tables(content: str) -> list[Rows]:
    """The tables in their order."""
    tables: list[Rows] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(content):
        if token.type == "table_open":
            tables.append([])
            inside = True
        elif token.type == "table_close":
            inside = False
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and inside:
            tables[-1][-1].append("".join(child.content for child in token.children or []))
    return tables


def number(cell: str) -> float | None:
    """A number as a report writes it; a dash is none."""
    return None if cell == "–" else float(cell.replace("−", "-").replace(",", "").removesuffix(" %"))
