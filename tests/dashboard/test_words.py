from datetime import UTC, datetime

import pytest

from dashboard import words
from dashboard.parts.mapping_form import counted_as


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0714, "+0.071"), (-0.0714, "−0.071"), (0.0, "0.000"), (-0.0001, "0.000"), (None, "–"), (float("nan"), "–")],
)
def test_a_signed_number_has_its_sign_and_never_a_signed_zero(value: float | None, said: str) -> None:
    assert words.signed(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-4, "1e-4"), (0.05, "0.05"), (0.0, "0"), (2.5e-5, "2.5e-5"), (1.0, "1"), (1e-2, "0.01"), (None, "–")],
)
def test_a_setting_is_said_as_short_as_a_person_would_write_it(value: float | None, said: str) -> None:
    assert words.short_float(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.21, "0.2 s"), (42, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (None, "–")]
)
def test_a_duration_names_the_two_units_that_matter(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(("n_bytes", "said"), [(12, "12 B"), (2048, "2.0 KiB"), (8.4e6, "8.0 MiB"), (None, "–")])
def test_bytes_have_a_binary_unit(n_bytes: float | None, said: str) -> None:
    assert words.size(n_bytes) == said


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        ("2026-11-22T12:00:00+00:00", "just now"),
        ("2026-11-22T11:55:00+00:00", "5 min ago"),
        ("2026-11-22T09:00:00", "3 h ago"),
        ("2026-11-20T12:00:00+00:00", "2 d ago"),
        ("2026-01-20T12:00:00+00:00", "2026-01-20"),
        (None, "–"),
    ],
)
def test_a_time_is_said_as_a_distance_from_now(stamp: str | None, said: str) -> None:
    assert words.ago(stamp, datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC)) == said


def test_counts_have_separators_and_plurals_are_english() -> None:
    assert words.plural(14848, "expert") == "14,848 experts"
    assert words.batches(1) == "1 batch"
    assert words.batches(24) == "24 batches"


def test_label_values_are_counted_under_what_says_their_meaning() -> None:
    assert counted_as({"True": 4, "False": 3, "true ": 1}, ["true", "false"]) == {"true": 5, "false": 3}
    found = {"homonyms": 2, "Contrast_homonyms": 3, "contrast_x": 1}
    assert counted_as(found, ["contrast_*", "*"]) == {"*": 2, "contrast_*": 4}
    assert counted_as({"True": 4, "maybe": 1}, []) == {"True": 4, "maybe": 1}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.7, "under 1 s"),
        (20, 40, "20 s to 40 s"),
        (100, 125, "about 2 min"),
        (60, 7000, "60 s to 2 h"),
        (90000, 400000, "25 h to 5 d"),
    ],
)
def test_an_estimate_is_a_rough_range(low: float, high: float, said: str) -> None:
    assert words.about(low, high) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(444e6, 869e6, "420 to 830 MiB"), (1.5e9, 13e9, "1.4 to 12 GiB"), (0.3e9, 2.6e11, "0.28 to 240 GiB")],
)
def test_a_range_of_memory_has_one_unit_and_two_digits(low: float, high: float, said: str) -> None:
    assert words.sizes(low, high) == said
