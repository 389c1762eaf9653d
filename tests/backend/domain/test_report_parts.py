import io
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from markdown_it import MarkdownIt
from PIL import Image

from backend.domain.report.as_html import as_html
from backend.domain.report.as_markdown import as_markdown, code, escaped
from backend.domain.report.document import (
    Code,
    Column,
    Document,
    Heatmap,
    Paragraph,
    Section,
    Strip,
    Strong,
    Table,
    text,
)
from backend.domain.report.png import png
from backend.domain.report.raster import cells, levels, palette, round_up, whole_heatmap, whole_strip
from backend.domain.report.words import decimals_for, interval, number, p_value, shown, signed
from tests.backend import reading_reports

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=60)
MARKUP = st.text("`*_[]()<>|~$&!\\#+-=.:/1aw \n\t{}'\"", max_size=40)


def document(*blocks, title="t") -> Document:
    return Document(title, "s", (), text("a"), (Section("one", "One", blocks),), text("f"), "x")


@given(st.one_of(TEXT, MARKUP))
def test_any_text_comes_out_of_markdown_as_it_went_in(given_text):
    content = shown(given_text)
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(escaped(content))
    inline = [token for token in tokens if token.type == "inline"]
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
    children = [child for token in inline for child in token.children or []]
    assert {child.type for child in children} <= {"text"}
    assert "".join(child.content for child in children) == content.strip()


@given(st.one_of(TEXT, MARKUP))
def test_any_code_comes_out_of_markdown_as_it_went_in(given_text):
    content = " ".join(shown(given_text).split())
    written = as_markdown(document(Table("k", "c", (Column("a"), Column("b")), ((Code(content), "x"),))))
    (table,) = reading_reports.markdown_tables(written)
    assert len(table[1]) == 2
    assert table[1][0] == (content or "“”")
    assert code(content)


@given(st.one_of(TEXT, MARKUP))
def test_any_text_comes_out_of_html_as_it_went_in(given_text):
    content = shown(given_text)
    table = Table(content, content, (Column(content),), ((Strong(content),),))
    page = reading_reports.Page(as_html(document(Paragraph(text(content)), table, title=content)))
    assert content in page.paragraphs
    assert page.tables[content] == [[content], [content]]
    assert "script" not in page.tags


@given(TEXT)
def test_nothing_invisible_is_shown(given_text):
    assert not [char for char in shown(given_text) if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")]


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 205)))
def test_a_picture_reads_back_as_its_pixels(pixels):
    picture = Image.open(io.BytesIO(png(pixels, palette())))
    picture.verify()
    again = Image.open(io.BytesIO(png(pixels, palette())))
    assert np.array_equal(np.asarray(again), pixels)
    assert np.array_equal(np.asarray(again.convert("RGB")), palette()[pixels])


def test_zero_is_the_middle_of_the_scale_and_the_sides_are_told_apart_without_colour():
    values = np.array([[-0.2, 0.0, 0.2, np.nan]])
    heat = Heatmap("h", "t", text("c"), values, np.array([[True, False, True, True]]), ("0",), 0.2)
    assert levels(heat).tolist() == [[0, 100, 200, 201]]
    for dark in (False, True):
        colours = palette(dark=dark)
        assert abs(int(colours[100].max()) - int(colours[100].min())) < 16, "zero is grey"
        assert colours[0][2] > colours[0][0], "safe is blue"
        assert colours[200][0] > colours[200][2], "unsafe is red"
        own = cells(heat, dark=dark)
        width = own.shape[1] // 4
        marked = [len(np.unique(own[:-1, place * width : (place + 1) * width - 1])) > 1 for place in range(4)]
        assert marked == [True, False, True, False], "a dot where an expert is marked and exists"


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, 2500))
def test_figures_of_any_size_can_be_drawn(rows, experts, batches):
    values = np.linspace(-1, 1, rows * experts).reshape(rows, experts)
    heat = Heatmap("h", "t", text("c"), values, values > 0.9, tuple(map(str, range(rows))), 1.0)
    strip = Strip("s", "t", text("c"), np.linspace(0, 1, batches), np.full(batches, np.nan))
    assert whole_heatmap(heat).shape[1] > 5 * experts
    assert whole_strip(strip).shape[1] <= 2 * 1000 + 102
    page = reading_reports.Page(as_html(document(heat, strip)))
    assert page.tags.count("image") == 2


@given(st.floats(1e-12, 1))
def test_a_p_value_is_never_written_as_nothing(p):
    assert float(p_value(p)) > 0
    assert float(p_value(p)) == pytest.approx(p, rel=0.06, abs=5.1e-5 if p >= 9.5e-5 else 0)


@given(st.floats(-1, 1))
def test_a_difference_keeps_its_digits_and_its_sign(value):
    decimals = decimals_for(abs(value))
    again = reading_reports.number(signed(value, decimals))
    assert again == pytest.approx(value, abs=0.51 * 10**-decimals)
    assert abs(value) < 1e-4 or abs(again - value) <= 0.006 * abs(value)
    assert 10 * abs(value) >= round_up(abs(value)) >= abs(value) * (1 - 1e-9) or abs(value) <= 1e-12


def test_what_is_not_there_is_a_dash():
    nothing = math.nan
    assert {number(nothing), number(None), signed(nothing), p_value(None), interval(0.1, nothing)} == {"–"}
