"""Sees, inside the forward call, what the model is really given, and compares it with the analysis batch.

A data loader can be right and the step still wrong: a collator that drops a row, a tokenizer that changed, a sampler
that swaps two samples. So the ids are taken from the forward's own arguments, padding stripped by the mask, and hashed.
After: Training run, domain.md, Data 7.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.domain.canonical import sha256_hex
from backend.domain.errors import ProvenanceBroken
from backend.domain.vocabulary import Label
from worker.examples import IGNORED, SampleKey, TrainBatch, sample_key
from worker.sampling import Rows, share_of

_NAMED = 5
"""How many differing samples an error names."""

HashPrompt = Callable[[NDArray[np.int32]], str]


def ids_digest(ids: NDArray[np.int32]) -> str:
    """Return the SHA-256 of token ids as little-endian int32."""
    return sha256_hex(np.ascontiguousarray(ids, dtype="<i4").tobytes())


@dataclass(frozen=True, slots=True)
class SeenSample:
    """A sample as it stood in the forward call. Digests are of the ids that were there, the key is what it claimed.

    rank: the process whose forward it was.
    """

    key: SampleKey
    prompt_digest: str
    answer_digest: str
    rank: int = 0


@dataclass(frozen=True, slots=True)
class ExpectedSample:
    """A sample as the analysis measured it, with the target that was frozen for it."""

    in_batch_idx: int
    label: Label
    row_id: str
    prompt_digest: str
    answer_digest: str


@dataclass(frozen=True, slots=True)
class ExpectedBatch:
    """An analysis batch, samples in order."""

    batch_idx: int
    batch_id: str
    samples: tuple[ExpectedSample, ...]

    @classmethod
    def of(cls, batch: TrainBatch) -> "ExpectedBatch":
        """Freeze what a train batch must look like in the forward call."""
        return cls(
            batch.batch_idx,
            batch.batch_id,
            tuple(
                ExpectedSample(e.in_batch_idx, label, row_id, e.prompt_digest, ids_digest(e.answer_ids))
                for e in batch.examples
                for row_id, label in [e.planned or (e.row_id, e.label)]
            ),
        )


def expected_from_rows(rows: Rows, hash_prompt: HashPrompt) -> dict[int, ExpectedBatch]:
    """Freeze what must arrive from the rows of a training set themselves, {batch_idx: batch}."""
    groups: dict[int, list[tuple[SampleKey, ExpectedSample]]] = {}
    for i in range(len(rows)):
        key, length = sample_key(rows[i]), int(rows[i]["prompt_length"])
        ids = np.asarray(rows[i]["input_ids"], dtype=np.int32)
        sample = ExpectedSample(
            key.in_batch_idx, key.label, key.row_id, hash_prompt(ids[:length]), ids_digest(ids[length:])
        )
        groups.setdefault(key.batch_idx, []).append((key, sample))
    return {
        idx: ExpectedBatch(
            idx, group[0][0].batch_id, tuple(sorted((s for _, s in group), key=lambda s: s.in_batch_idx))
        )
        for idx, group in groups.items()
    }


class ForwardWitness:
    """A forward pre-hook on the model. `announce` the rows before each forward, `take` what was seen after them."""

    def __init__(self, model: torch.nn.Module, hash_prompt: HashPrompt, rank: int = 0) -> None:
        self._hash, self._rank = hash_prompt, rank
        self._announced: tuple[Sequence[SampleKey], Tensor] | None = None
        self._seen: list[SeenSample] = []
        self._handle = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def announce(self, samples: Sequence[SampleKey], labels: Tensor) -> None:
        """Say which samples the next forward's rows claim to be. labels: [sample, token], IGNORED before answers."""
        self._announced = (samples, labels)

    def take(self) -> list[SeenSample]:
        """Return what the forwards since the last `take` were given, in order."""
        seen, self._seen = self._seen, []
        return seen

    def remove(self) -> None:
        """Stop looking."""
        self._handle.remove()

    def _look(self, _model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._announced is None:  # an evaluation, or somebody's own forward: no step depends on it
            return
        (samples, labels), self._announced = self._announced, None
        ids, mask = (kwargs[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        answers = (labels != IGNORED).cpu().numpy()
        for row, key in enumerate(samples):
            real, answer = mask[row].astype(bool), answers[row]
            before = np.cumsum(answer) == 0
            prompt = ids[row][real & before].astype(np.int32)
            target = ids[row][real & ~before].astype(np.int32)
            self._seen.append(SeenSample(key, self._hash(prompt), ids_digest(target), self._rank))


def check_step(
    step: int, expected: ExpectedBatch, seen: Sequence[SeenSample], shares: Sequence[Sequence[SeenSample]] = ()
) -> None:
    """Raise ProvenanceBroken, naming the batch and its samples, unless the forward was given exactly this batch.

    seen: in the batch's order. shares: what each process was given, in its own order, if there are several.
    """
    problems = [*_wrong_shares(expected, shares), *_problems(expected, seen, len(shares))]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ProvenanceBroken(
            f"Step {step} was to train batch {expected.batch_idx} ({expected.batch_id[:12]}), but the forward was "
            f"given something else: {'; '.join(problems[:_NAMED])}{more}. The run stopped before this step was applied."
        )


def _wrong_shares(expected: ExpectedBatch, shares: Sequence[Sequence[SeenSample]]) -> list[str]:
    """Say which processes were not given their share of the batch, in its order."""
    problems = []
    is_safe = [e.label is Label.SAFE for e in expected.samples]
    for rank, share in enumerate(shares if len(shares) > 1 else ()):
        wanted = [expected.samples[place].in_batch_idx for place in share_of(is_safe, rank, len(shares))]
        given = [s.key.in_batch_idx for s in share]
        if given != wanted:
            words = [", ".join(map(str, places)) or "none" for places in (given, wanted)]
            problems.append(f"process {rank} of {len(shares)} was given samples {words[0]}, not {words[1]}")
    return problems


def _problems(expected: ExpectedBatch, seen: Sequence[SeenSample], n_processes: int) -> list[str]:
    problems = []
    strangers = sorted({s.key.batch_idx for s in seen if s.key.batch_id != expected.batch_id})
    if strangers:
        problems.append(f"samples of batch {', '.join(map(str, strangers))} stand in it")
    if len(seen) != len(expected.samples):
        problems.append(f"{len(expected.samples)} samples were planned, {len(seen)} arrived")
    problems += _not_there(expected, seen)
    if problems:
        return problems
    for place, (e, s) in enumerate(zip(expected.samples, seen, strict=True)):
        name = _name(e) + (f", in process {s.rank} of {n_processes}," if n_processes > 1 else "")
        if (s.key.in_batch_idx, s.key.row_id) != (e.in_batch_idx, e.row_id):
            problems.append(f"{name} is not in its place: sample {s.key.in_batch_idx} stands at place {place}")
        elif s.key.label is not e.label:
            problems.append(f"{name} is {e.label} in the analysis and {s.key.label} here")
        elif s.prompt_digest != e.prompt_digest:
            problems.append(f"{name} has the prompt digest {s.prompt_digest[:12]}, not {e.prompt_digest[:12]}")
        elif s.answer_digest != e.answer_digest:
            problems.append(f"{name} has another answer than the one that was frozen")
    return problems


def _not_there(expected: ExpectedBatch, seen: Sequence[SeenSample]) -> list[str]:
    """Say which planned rows did not arrive: because they hold something else now, or not at all."""
    planned, arrived = {e.row_id for e in expected.samples}, {s.key.row_id for s in seen}
    now = {
        s.key.in_batch_idx: s.key.row_id
        for s in seen
        if s.key.batch_id == expected.batch_id and s.key.row_id not in planned
    }
    return [
        f"{_name(e)} was changed after the analysis: its row is {now[e.in_batch_idx][:12]} now"
        if e.in_batch_idx in now
        else f"{_name(e)} is missing"
        for e in expected.samples
        if e.row_id not in arrived
    ]


def _name(sample: ExpectedSample) -> str:
    return f"sample {sample.in_batch_idx} (row {sample.row_id[:12]})"
