"""Which column of a file is what: a mapping, what it leaves out, and the meaning of label words.

Never guessed: what 0, 1, true, false, yes or no mean in a label column. Which published format a file has: formats.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from backend.domain.errors import InvalidInput
from backend.domain.vocabulary import Label

FIELDS = ("prompt", "before", "after", "messages", "label", "response", "category", "difficulty", "group", "source")
"""before, after: text that stands in front of the prompt or behind it and belongs to it (reading_rows.py)."""

LEAVE_OUT = {
    "unlabelled": "rows whose label is empty",
    "redacted": "rows whose prompt is the word REDACTED",
    "both_labels": "prompts that carry both labels",
}
"""What a mapping may leave out, on request only; it is counted and listed. Everything else that is wrong is refused."""

_WORDS = {
    Label.SAFE: "safe harmless benign good innocuous non_harmful not_harmful non_toxic not_toxic 安全 无害",
    Label.UNSAFE: "unsafe harmful malicious bad dangerous toxic jailbreak not_safe 不安全 有害",
}
LABEL_WORDS = {word: label for label, words in _WORDS.items() for word in words.split()}
_AMBIGUOUS = frozenset({"0", "1", "true", "false", "yes", "no", "t", "f", "y", "n"})


@dataclass(frozen=True, slots=True)
class Mapping:
    """How to read one file. columns: field (FIELDS) -> column name; label_values: raw value -> label.

    A raw value is compared without case and outer spaces; a key may end in `*` (any rest). fixed_label: of every row.
    source: of every row whose file does not say. leave_out: words of LEAVE_OUT. A mapping that names no prompt is
    partial: it changes the proposal instead of replacing it (`over`).
    """

    columns: dict[str, str]
    label_values: dict[str, Label] = field(default_factory=dict)
    fixed_label: Label | None = None
    name: str = "custom"
    source: str | None = None
    leave_out: tuple[str, ...] = ()

    @property
    def has_label(self) -> bool:
        """Whether rows get a label without one being given for the whole file."""
        return self.fixed_label is not None or "label" in self.columns

    @property
    def is_partial(self) -> bool:
        """Whether the prompt's column is left to the proposal."""
        return not {"prompt", "messages"} & set(self.columns)

    def over(self, proposed: "Mapping | None") -> "Mapping | None":
        """Return this mapping or, if it is partial, the proposal with this one's parts put over it."""
        if not self.is_partial or proposed is None:
            return None if self.is_partial else self
        fixed = proposed.fixed_label if "label" not in self.columns else None
        return Mapping(
            {**proposed.columns, **self.columns},
            {**proposed.label_values, **self.label_values},
            self.fixed_label or fixed,
            proposed.name,
            self.source or proposed.source,
            tuple(sorted({*self.leave_out, *proposed.leave_out})),
        )

    def label_of(self, raw: object) -> Label | None:
        """Return the label that a raw value stands for, or None where that is not known."""
        value = raw_label(raw)
        if not value:
            return None
        return _meaning(tuple(self.label_values.items()), value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        values = {key: str(label) for key, label in self.label_values.items()}
        fixed = None if self.fixed_label is None else str(self.fixed_label)
        return {
            "name": self.name,
            "columns": dict(self.columns),
            "label_values": values,
            "fixed_label": fixed,
            "source": self.source,
            "leave_out": list(self.leave_out),
        }

    @classmethod
    def from_dict(cls, value: Any) -> "Mapping":
        """Read a mapping a user may have written. Raises InvalidInput that names the field."""
        if not isinstance(value, dict) or not isinstance(columns := value.get("columns", {}), dict):
            raise InvalidInput('A mapping is an object such as {"columns": {"prompt": "text"}}.', ("mapping",))
        if unknown := sorted(set(value) - {"name", "columns", "label_values", "fixed_label", "source", "leave_out"}):
            raise InvalidInput(f"A mapping has no field {unknown[0]!r}.", ("mapping", unknown[0]))
        label_values = value.get("label_values") or {}
        if not isinstance(label_values, dict):
            raise InvalidInput("label_values is an object: raw value -> safe or unsafe.", ("mapping", "label_values"))
        fixed = value.get("fixed_label")
        return cls(
            columns=_checked_columns(columns),
            label_values={
                str(key): as_label(raw, ("mapping", "label_values", key)) for key, raw in label_values.items()
            },
            fixed_label=None if fixed in (None, "") else as_label(fixed, ("mapping", "fixed_label")),
            name=str(value.get("name") or "custom")[:100],
            source=_checked_source(value.get("source")),
            leave_out=_checked_words(value.get("leave_out") or []),
        )


@lru_cache(maxsize=4096)
def _meaning(label_values: tuple[tuple[str, Label], ...], value: str) -> Label | None:
    """Look up a raw value: a large file has few of them, and each many times."""
    exact = {key.strip().casefold(): label for key, label in label_values}
    if value in exact:
        return exact[value]
    for pattern, label in exact.items():
        if pattern.endswith("*") and value.startswith(pattern[:-1]):
            return label
    return LABEL_WORDS.get(re.sub(r"[\s-]+", "_", value))


def _checked_columns(columns: dict[Any, Any]) -> dict[str, str]:
    for name, column in columns.items():
        if name not in FIELDS:
            raise InvalidInput(f"A mapping has no column {name!r}: use {', '.join(FIELDS)}.", ("mapping", "columns"))
        if column is not None and not isinstance(column, str):
            raise InvalidInput(f"The column for {name!r} must be a column's name.", ("mapping", "columns", name))
    chosen = {name: column for name, column in columns.items() if column}
    if {"prompt", "messages"} <= set(chosen):
        raise InvalidInput("A mapping names a `prompt` or a `messages` column, not both.", ("mapping", "columns"))
    if "messages" in chosen and (extra := sorted({"before", "after"} & set(chosen))):
        raise InvalidInput(f"`{extra[0]}` belongs to a `prompt`, and messages have none.", ("mapping", "columns"))
    return chosen


def _checked_source(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > 200):
        raise InvalidInput("source is a text of at most 200 characters.", ("mapping", "source"))
    return value or None


def _checked_words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word in LEAVE_OUT for word in value):
        raise InvalidInput(f"leave_out is a list of: {', '.join(LEAVE_OUT)}.", ("mapping", "leave_out"))
    return tuple(sorted(set(value)))


def as_label(value: object, loc: Sequence[str | int] = ("label",)) -> Label:
    """Return `safe` or `unsafe` as a Label; nothing else is accepted. Raises InvalidInput."""
    try:
        return Label(str(value).strip().casefold())
    except ValueError:
        raise InvalidInput(f"A label is `safe` or `unsafe`, not {str(value)[:80]!r}.", loc) from None


def raw_label(raw: object) -> str:
    """Return a raw label value as it is compared: trimmed, without case; 1.0 is 1, as nullable columns have it."""
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    return str(raw).strip().casefold()


def label_problem(raw: object) -> str:
    """Say why a raw label value was not understood, and what to do."""
    shown = str(raw).strip()[:80]
    example = '{"label_values": {"1": "unsafe", "0": "safe"}}'
    if raw_label(raw) in _AMBIGUOUS:
        return f"The label {shown!r} can mean either, and is never guessed: say so in the mapping, as in {example}."
    return (
        f"The label {shown!r} is not known: use safe or unsafe, or say in the mapping what it means, as in {example}."
    )
