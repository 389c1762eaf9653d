"""Prompt sets: rows, what their labels mean, identity by content, and the rules every set must keep.

Covered: one row, one set, digests, duplicates, contradicting labels. Not covered: reading files (reading.py) and
finding columns (mappings.py).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from backend.domain.canonical import digest
from backend.domain.errors import ImportRefused, InvalidInput, RowProblem
from backend.domain.vocabulary import LABELS, Label

__all__ = [
    "LABELS",
    "MAX_PROBLEMS",
    "ROLES",
    "ImportRefused",
    "Label",
    "LabelMeaning",
    "Message",
    "PromptRow",
    "PromptSet",
    "RowOrigin",
    "RowProblem",
    "build_prompt_set",
    "class_problems",
    "contradiction",
    "is_storable",
]

ROLES = ("system", "user", "assistant")
MAX_PROBLEMS = 1000
"""Reading stops after this many problems: a file with that many needs another look, not a longer list."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. role: one of ROLES. Raises InvalidInput for another role."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidInput(f"A message has the role {self.role!r}; it must be one of {', '.join(ROLES)}.")

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON, as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt with its label. Text is kept exactly as it came: no stripping, no newline or Unicode rewriting.

    messages end with the user's; response is what was answered (never part of the prompt); group is the unit of
    resampling (a topic or a contrast pair). After: Prompt set, domain.md, Data 1.
    """

    messages: tuple[Message, ...]
    label: Label
    response: str | None = None
    category: str | None = None
    difficulty: str | None = None
    group: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise InvalidInput("A prompt must end with a message of the user.")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of every field: the row's id everywhere (`row_id`)."""
        return digest(self.to_dict())

    @property
    def prompt_key(self) -> str:
        """SHA-256 of the messages alone: two rows with one key are the same prompt."""
        return digest([message.to_dict() for message in self.messages])

    @property
    def text(self) -> str:
        """What to show for this prompt: the user's last message."""
        return self.messages[-1].content

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON with every field, in a fixed set of keys."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            "label": str(self.label),
            "response": self.response,
            "category": self.category,
            "difficulty": self.difficulty,
            "group": self.group,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "PromptRow":
        """Read what `to_dict` wrote."""
        messages = tuple(Message(**message) for message in value["messages"])
        return cls(**{**value, "messages": messages, "label": Label(value["label"])})


_PRESETS = {
    "harmless_harmful": ("a harmless request", "a harmful request"),
    "refused_complied": ("a harmful request that was refused", "a harmful request that was complied with"),
}


@dataclass(frozen=True, slots=True)
class LabelMeaning:
    """What "safe" and "unsafe" mean in one prompt set, in words. kind: harmless_harmful, refused_complied or other."""

    kind: str
    safe: str
    unsafe: str

    @classmethod
    def from_text(cls, text: str) -> "LabelMeaning":
        """Read a preset's name or JSON `{"safe": "...", "unsafe": "..."}`. Raises InvalidInput."""
        text = text.strip()
        if text in _PRESETS:
            return cls(text, *_PRESETS[text])
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError):
            raise InvalidInput(
                f"Say what the labels mean: {' or '.join(_PRESETS)}, "
                'or JSON such as {"safe": "a polite reply", "unsafe": "a rude reply"}.',
                ("label_meaning",),
            ) from None

    @classmethod
    def of(cls, value: "str | dict[str, str]") -> "LabelMeaning":
        """Read a preset's name or the words themselves. Raises InvalidInput."""
        return cls.from_text(value) if isinstance(value, str) else cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Any) -> "LabelMeaning":
        """Read what `to_dict` wrote; `kind` may be missing (other). Raises InvalidInput."""
        words = [value.get(key) for key in ("safe", "unsafe")] if isinstance(value, dict) else [None]
        texts = [word for word in words if isinstance(word, str) and word.strip()]
        if len(texts) != len(LABELS):
            raise InvalidInput("label_meaning needs a text under both `safe` and `unsafe`.", ("label_meaning",))
        kind = value.get("kind", "other")
        if kind not in (*_PRESETS, "other"):
            raise InvalidInput(f"label_meaning has the unknown kind {kind!r}.", ("label_meaning", "kind"))
        if not all(map(is_storable, texts)):
            raise InvalidInput("label_meaning holds NUL or broken Unicode.", ("label_meaning",))
        return cls(kind, *texts)

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON."""
        return asdict(self)


def is_storable(text: str) -> bool:
    """Whether a text can be stored everywhere: PostgreSQL refuses NUL, UTF-8 refuses lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The rows of a set in their order, without duplicates. n_duplicates: how many rows were left out as such."""

    rows: tuple[PromptRow, ...]
    label_meaning: LabelMeaning
    n_duplicates: int

    @property
    def sha256(self) -> str:
        """Identity of the set: the meaning of its labels and its rows in order, without the duplicates left out."""
        return digest({"label_meaning": self.label_meaning.to_dict(), "rows": [row.digest for row in self.rows]})

    def count(self, label: Label) -> int:
        """Return how many rows carry this label."""
        return sum(row.label == label for row in self.rows)


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """Where a row came from. row counts the file's data rows from 1."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"row {self.row} of {self.file}" if self.file else f"row {self.row}"


def build_prompt_set(rows: Iterable[tuple[RowOrigin, PromptRow]], label_meaning: LabelMeaning) -> PromptSet:
    """Make a set: the first of equal prompts is kept, later ones are counted.

    Raises ImportRefused if a prompt carries both labels, if a label is missing altogether, or if there are no rows.
    """
    kept: list[PromptRow] = []
    first: dict[str, tuple[RowOrigin, Label]] = {}
    problems: list[RowProblem] = []
    n_duplicates = 0
    for origin, row in rows:
        earlier, label = first.setdefault(row.prompt_key, (origin, row.label))
        if earlier is origin:
            kept.append(row)
        elif label is row.label:
            n_duplicates += 1
        elif len(problems) < MAX_PROBLEMS:
            problems.append(contradiction(origin, row.label, earlier, label))
    n_safe = sum(row.label is Label.SAFE for row in kept)
    problems = problems or class_problems(n_safe, len(kept) - n_safe)
    if problems:
        raise ImportRefused(problems)
    return PromptSet(tuple(kept), label_meaning, n_duplicates)


def contradiction(origin: RowOrigin, label: Label, earlier: RowOrigin, earlier_label: Label) -> RowProblem:
    """Return the problem of a prompt that came before with the other label."""
    message = f"The same prompt is {earlier_label} at {earlier} and {label} here: keep one of the two."
    return RowProblem(origin.row, message, origin.file)


def class_problems(n_safe: int, n_unsafe: int) -> list[RowProblem]:
    """Return what is wrong with a set of so many rows of each label."""
    if not n_safe and not n_unsafe:
        return [RowProblem(0, "There are no rows to import.")]
    return [
        RowProblem(0, f"Every prompt is {other}, none is {label}: a set needs both. Add a file of {label} prompts.")
        for label, other, n in ((Label.SAFE, Label.UNSAFE, n_safe), (Label.UNSAFE, Label.SAFE, n_unsafe))
        if not n
    ]
