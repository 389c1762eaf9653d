"""Which prompts an evaluation asks, and whether any of them was seen before by what chose the experts.

A prompt is known by its messages alone; a group by its name. Overlap with the analysis behind an expert set, or with a
training, makes every claim about behaviour in-sample.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backend.domain.errors import InvalidInput
from backend.domain.vocabulary import LABELS, Label


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """One prompt of an evaluation. key: SHA-256 of its messages. seen: its prompt or its group was used before."""

    row_idx: int
    row_id: str
    key: str
    label: Label
    group: str | None
    seen_prompt: bool = False
    seen_group: bool = False

    @property
    def seen(self) -> bool:
        """Whether the prompt or its group was used before."""
        return self.seen_prompt or self.seen_group


@dataclass(frozen=True, slots=True)
class Used:
    """What an analysis or a training has seen. kind: analysis or training; id: which."""

    kind: str
    id: str
    keys: frozenset[str]
    groups: frozenset[str]


def mark_seen(prompts: Iterable[AskedPrompt], used: Sequence[Used]) -> list[AskedPrompt]:
    """Return the prompts with what was used before marked."""
    keys = frozenset().union(*(one.keys for one in used))
    groups = frozenset().union(*(one.groups for one in used))
    return [
        AskedPrompt(
            p.row_idx, p.row_id, p.key, p.label, p.group, p.key in keys, p.group is not None and p.group in groups
        )
        for p in prompts
    ]


def choose_prompts(
    prompts: Sequence[AskedPrompt], *, holdout: bool, max_prompts: int, seed: int
) -> tuple[AskedPrompt, ...]:
    """Return the prompts to ask, in the set's order: at most `max_prompts`, as equal in label as they allow.

    holdout: only those whose prompt and group nothing has used. Drawn by the seed. Raises InvalidInput where none is
    left.
    """
    left = [p for p in prompts if not (holdout and p.seen)]
    if not left:
        raise InvalidInput(
            f"None of the {len(prompts)} prompts is new: every one, or its group, was used to choose the experts or to "
            "train. Import other prompts, or analyse a part of these only; or go without `holdout`, and the result "
            "will be called in-sample.",
            ("body", "holdout"),
        )
    chosen: list[AskedPrompt] = []
    room = max_prompts
    by_label = sorted(([p for p in left if p.label is label] for label in LABELS), key=len)
    for number, own in enumerate(by_label):
        take = min(len(own), room // (len(by_label) - number))
        chosen += sorted(own, key=lambda p: _lot(seed, p.key))[:take]
        room -= take
    return tuple(sorted(chosen, key=lambda p: p.row_idx))


def _lot(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()


def overlap(prompts: Sequence[AskedPrompt], used: Sequence[Used]) -> dict[str, object]:
    """Return how much of what is asked was used before, in all and by whom; plain JSON."""
    groups = {p.group for p in prompts if p.group is not None}
    return {
        "in_sample": any(p.seen for p in prompts),
        "n_prompts": len(prompts),
        "n_seen_prompts": sum(p.seen_prompt for p in prompts),
        "n_groups": len(groups),
        "n_seen_groups": len({p.group for p in prompts if p.seen_group}),
        "n_seen": sum(p.seen for p in prompts),
        "used_by": [
            {
                "kind": one.kind,
                "id": one.id,
                "n_prompts": sum(p.key in one.keys for p in prompts),
                "n_groups": len(groups & one.groups),
            }
            for one in used
        ],
    }
