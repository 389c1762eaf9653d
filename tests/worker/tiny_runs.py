"""Small real training runs over the tiny models, and a sink that remembers what it was told."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from backend.domain.canonical import digest
from backend.domain.plan import batch_id
from backend.domain.prompts import Message
from backend.domain.provenance import prompt_digest
from backend.domain.vocabulary import LABELS
from tests.worker.tiny import TEXTS, tiny_tokenizer
from worker.adapters import Adapter
from worker.examples import TrainBatch, TrainExample
from worker.prompts import encode_answer, encode_prompt, template_digest, tokenizer_digest
from worker.runs import StepRecord, TrainingRun
from worker.sampling import BatchPreservingSampler
from worker.turns import Routers

SIZES = (4, 4, 4, 2)  # the last batch is short


@cache
def _digests() -> tuple[Any, str, str | None]:
    tokenizer = tiny_tokenizer()
    return tokenizer, tokenizer_digest(tokenizer), template_digest(tokenizer)


def tiny_example(number: int, in_batch_idx: int, n_safe: int) -> TrainExample:
    """Make the number-th sample; its batch is filled in by `tiny_batches`."""
    tokenizer, words, template = _digests()
    label = LABELS[int(in_batch_idx >= n_safe)]
    prompt = encode_prompt(tokenizer, [Message("user", f"{TEXTS[number % len(TEXTS)]} {number}")]).ids
    answer = encode_answer(tokenizer, "I can't." if label == "unsafe" else TEXTS[(number + 3) % len(TEXTS)], 12)
    digest_ = prompt_digest(words, template, prompt)
    return TrainExample(prompt, answer, 0, "", in_batch_idx, label, digest(["row", number]), digest_)


def tiny_batches(sizes: Sequence[int] = SIZES) -> tuple[TrainBatch, ...]:
    """Make batches of these sizes, half of each safe, every prompt a different one."""
    batches, number = [], 0
    for batch_idx, size in enumerate(sizes):
        examples = [tiny_example(number + i, i, size // 2) for i in range(size)]
        number += size
        identity = batch_id(examples)
        placed = [dataclasses.replace(e, batch_idx=batch_idx, batch_id=identity) for e in examples]
        pairs = tuple((i, size // 2 + i) for i in range(size // 2))
        batches.append(TrainBatch(batch_idx, identity, tuple(placed), pairs))
    return tuple(batches)


def tiny_run(model: Path, out_dir: Path, **changes: Any) -> TrainingRun:
    """Make a run of two epochs over the tiny batches, with weight decay and momentum to make trouble."""
    settings: dict[str, Any] = {
        "experts": [(0, 1), (1, 0), (1, 3)],
        "epochs": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "checkpoint_every": 3,
        "batches": tiny_batches(),
    }
    changes |= {"adapter": Adapter.of(changes.get("adapter")), "routers": Routers.of(changes.get("routers"))}
    return TrainingRun(model_path=str(model), out_dir=out_dir, **settings | changes)


class ListSink:
    """Remembers every record in order; asks to stop after a given step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[StepRecord] = []
        self.lines: list[str] = []
        self.notes: list[tuple[str, str]] = []
        self.stop_after = stop_after

    def record_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.records[-1].step >= self.stop_after

    def log(self, message: str) -> None:
        self.lines.append(message)

    def note(self, kind: str, message: str) -> None:
        self.notes.append((kind, message))
        self.lines.append(message)


def timeless(records: Sequence[StepRecord]) -> list[StepRecord]:
    """Return the records without the one field that may differ between two equal runs."""
    return [dataclasses.replace(record, seconds=0.0) for record in records]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Load a folder as anybody would and return its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[tuple[str, int | None]]:
    """Return what is not bit-identical: (name, expert) inside fused expert tensors, (name, None) elsewhere."""
    assert before.keys() == after.keys()
    found: set[tuple[str, int | None]] = set()
    for name, old in before.items():
        if ".experts." in name and old.dim() == 3:
            found |= {(name, e) for e in range(len(old)) if not torch.equal(old[e], after[name][e])}
        elif not torch.equal(old, after[name]):
            found.add((name, None))
    return found


def scarce(model: torch.nn.Module, rows: int) -> None:
    """Leave memory for forwards of so many rows only: a larger one asks the allocator for more than there is."""

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if model.training and len(kwargs["input_ids"]) > rows:
            torch.empty(2**60, dtype=torch.uint8)

    model.register_forward_pre_hook(look, with_kwargs=True)


def swapping(trainer: Any, batch_idx: int) -> None:
    """Make a trainer's sampler swap the first two samples of one batch (of this process' share)."""
    loader = trainer.get_train_dataloader()
    batches = loader.batch_sampler.batches

    class Swapping(BatchPreservingSampler):
        def __iter__(self) -> Iterator[list[int]]:
            for rows in super().__iter__():
                yield [rows[1], rows[0], *rows[2:]] if set(rows) & set(batches[batch_idx]) else rows

    loader.batch_sampler.__class__ = Swapping
    trainer.get_train_dataloader = lambda: loader


def dropping(collate: Any, batch_idx: int) -> Any:
    """Return a collator that drops the last sample of one batch (of this process' share)."""
    return lambda rows: collate(rows[:-1] if rows and rows[0]["batch_idx"] == batch_idx else rows)
