"""What a batch plan is: its settings, batches, left-out rows, identities and stored form.

Not covered: how rows are put into batches (batches.py).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol

from backend.domain.canonical import canonical_json, digest
from backend.domain.errors import PlanImpossible, ProvenanceBroken
from backend.domain.vocabulary import Label

MIN_BATCH_SIZE, MAX_BATCH_SIZE = 2, 4096
STRATA_FIELDS = ("difficulty", "category", "group")


class Strategy(StrEnum):
    """How rows are put into batches.

    SHUFFLED: in a seeded random order. AS_LISTED: in the prompt set's order, per label. STRATIFIED: every batch gets,
    per label, the overall mix of `stratify_by` as evenly as whole samples allow. PAIRED: the two members of a contrast
    pair (a safe and an unsafe row of one `group`) stand in one batch; rows without a partner only fill up a side
    that the ratio makes larger.
    """

    SHUFFLED = "shuffled"
    AS_LISTED = "as_listed"
    STRATIFIED = "stratified"
    PAIRED = "paired"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What the plan needs to know of one row. `row_idx`: its place in the prompt set; `row_id`: its digest."""

    row_idx: int
    row_id: str
    label: Label
    category: str | None = None
    difficulty: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class PlanSettings:
    """What the user chooses. Raises PlanImpossible on values that no plan could follow."""

    batch_size: int = 16
    safe_ratio: float = 0.5
    seed: int = 0
    strategy: Strategy = Strategy.SHUFFLED
    keep_short: bool = True
    stratify_by: tuple[str, ...] = ("difficulty",)

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int):
            raise PlanImpossible(f"batch_size must be a whole number, not {self.batch_size!r}.", ("batch_size",))
        if not MIN_BATCH_SIZE <= self.batch_size <= MAX_BATCH_SIZE:
            raise PlanImpossible(
                f"batch_size is {self.batch_size}; it must be {MIN_BATCH_SIZE} to {MAX_BATCH_SIZE}.", ("batch_size",)
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise PlanImpossible(f"seed must be a whole number, not {self.seed!r}.", ("seed",))
        if not 0 < self.safe_ratio < 1:
            raise PlanImpossible(
                f"safe_ratio is {self.safe_ratio}; it must lie between 0 and 1, both excluded: "
                "a batch needs samples of both labels.",
                ("safe_ratio",),
            )
        if self.strategy not in tuple(Strategy):
            raise PlanImpossible(f"{self.strategy!r} is not a strategy; use {', '.join(Strategy)}.", ("strategy",))
        object.__setattr__(self, "strategy", Strategy(self.strategy))
        object.__setattr__(self, "safe_ratio", float(self.safe_ratio))
        object.__setattr__(self, "stratify_by", tuple(self.stratify_by))
        unknown = [name for name in self.stratify_by if name not in STRATA_FIELDS]
        if unknown or (self.strategy is Strategy.STRATIFIED and not self.stratify_by):
            raise PlanImpossible(
                f"stratify_by is {list(self.stratify_by)}; name one or more of {', '.join(STRATA_FIELDS)}.",
                ("stratify_by",),
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "strategy": str(self.strategy), "stratify_by": list(self.stratify_by)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "PlanSettings":
        """Read what `to_dict` wrote; unknown fields are refused."""
        unknown = sorted(set(value) - {field.name for field in fields(cls)})
        if unknown:
            raise PlanImpossible(f"unknown batch plan setting {unknown[0]!r}.", (unknown[0],))
        return cls(**value)


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample at its place in a batch."""

    in_batch_idx: int
    row_idx: int
    row_id: str
    label: Label


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One batch: safe samples first, then unsafe. `batch_idx` is a position, `batch_id` the identity."""

    batch_idx: int
    batch_id: str
    samples: tuple[PlannedSample, ...]

    @property
    def n_safe(self) -> int:
        """Number of safe samples."""
        return sum(sample.label is Label.SAFE for sample in self.samples)

    @property
    def n_unsafe(self) -> int:
        """Number of unsafe samples."""
        return len(self.samples) - self.n_safe


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that stands in no batch, and why."""

    row_idx: int
    row_id: str
    label: Label
    reason: str


@dataclass(frozen=True)
class BatchPlan:
    """The whole plan. Equal inputs give equal `to_json` bytes; `digest` is their SHA-256."""

    settings: PlanSettings
    prompt_set_sha256: str
    batches: tuple[PlannedBatch, ...]
    left_out: tuple[LeftOut, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_json`."""
        sha = hashlib.sha256()
        for part in self.json_parts():
            sha.update(part)
        return sha.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Return the counts a person wants first."""
        n_safe = sum(batch.n_safe for batch in self.batches)
        n_samples = sum(len(batch.samples) for batch in self.batches)
        return {
            "n_batches": len(self.batches),
            "n_samples": n_samples,
            "n_safe": n_safe,
            "n_unsafe": n_samples - n_safe,
            "n_left_out": len(self.left_out),
            "left_out_reasons": dict(sorted(Counter(row.reason for row in self.left_out).items())),
        }

    def to_json(self) -> bytes:
        """Serialise canonically: samples as [label, row_idx, row_id] in order, left-out rows with their reason."""
        return b"".join(self.json_parts())

    def json_parts(self) -> Iterator[bytes]:
        """Yield `to_json` batch by batch: the plan of a million prompts is 90 MB."""
        yield b'{"batches":['
        for place, batch in enumerate(self.batches):
            samples = [(s.label, s.row_idx, s.row_id) for s in batch.samples]
            yield b"," * bool(place) + canonical_json({"batch_id": batch.batch_id, "samples": samples})
        yield b'],"left_out":['
        for place, row in enumerate(self.left_out):
            yield b"," * bool(place) + canonical_json((row.label, row.row_idx, row.row_id, row.reason))
        rest = {"prompt_set_sha256": self.prompt_set_sha256, "settings": self.settings.to_dict(), "version": 1}
        yield b"]," + canonical_json(rest)[1:]

    @classmethod
    def from_json(cls, data: bytes) -> "BatchPlan":
        """Read what `to_json` wrote. Raises ProvenanceBroken if a batch_id does not follow from its samples."""
        try:
            value = json.loads(data)
            if value["version"] != 1:
                raise ProvenanceBroken(f"batch plan version {value['version']!r} is not known here.")
            return cls(
                settings=PlanSettings.from_dict(value["settings"]),
                prompt_set_sha256=value["prompt_set_sha256"],
                batches=tuple(_read_batch(idx, batch) for idx, batch in enumerate(value["batches"])),
                left_out=tuple(LeftOut(idx, id_, Label(label), why) for label, idx, id_, why in value["left_out"]),
            )
        except (ValueError, KeyError, TypeError, PlanImpossible) as error:
            raise ProvenanceBroken(f"the stored batch plan cannot be read: {error!r}") from error


class _Identified(Protocol):
    @property
    def label(self) -> Label: ...
    @property
    def row_id(self) -> str: ...


def batch_id(samples: Iterable[_Identified]) -> str:
    """Return the identity of a batch: SHA-256 over the ordered (label, row digest) of its samples."""
    return digest([(sample.label, sample.row_id) for sample in samples])


def n_safe_of(batch_size: int, safe_ratio: float) -> int:
    """Return how many samples of a batch are safe: batch_size x safe_ratio rounded half up, both sides at least 1.

    The ratio is taken as the decimal that was written: 50 x 0.29 is 14.5 and gives 15, whatever binary floats say.
    """
    return min(max(round_half_up(batch_size, safe_ratio), 1), batch_size - 1)


def round_half_up(size: int, safe_ratio: float) -> int:
    """Return size x safe_ratio rounded half up, where the ratio is the decimal that was written."""
    doubled = 2 * size * Fraction(repr(float(safe_ratio)))
    return (doubled.numerator + doubled.denominator) // (2 * doubled.denominator)


def _read_batch(idx: int, value: dict[str, Any]) -> PlannedBatch:
    samples = tuple(
        PlannedSample(place, row_idx, row_id, Label(label))
        for place, (label, row_idx, row_id) in enumerate(value["samples"])
    )
    if batch_id(samples) != value["batch_id"]:
        raise ProvenanceBroken(f"batch {idx} of the stored plan: its samples do not give its batch_id.")
    return PlannedBatch(idx, value["batch_id"], samples)
