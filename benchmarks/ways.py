"""The ways of training that benchmarks/training.py measures beside each other, and what all of them are given.

Four ways, each over the same batches of 16 real prompts with their answers:

- ours:  the product's trainer as a job runs it: whole analysis batches, every step verified and recorded in SQLite;
- plain: the same weights learn, from a plain DataLoader, and nothing is verified or recorded;
- stock: transformers' own Trainer, all weights learn;
- adapter: ours, with low-rank adapters of the same experts in place of their rows.

Prompts: Do-Not-Answer, answered by a refusal, and TruthfulQA with its accepted answers.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from backend.domain.batches import plan_batches, plan_rows
from backend.domain.plan import PlanSettings, batch_id
from backend.domain.prompts import Message
from backend.domain.provenance import prompt_digest
from backend.domain.vocabulary import Label
from backend.store import tables as t
from backend.store.engine import writing
from benchmarks import capture
from benchmarks.fake import FakeAnalysis, FakeEngine, Shape, url_of
from tests import realdata
from worker.adapters import Adapter
from worker.dataset import BatchCollator, ExampleRows
from worker.examples import IGNORED, TrainBatch, TrainExample
from worker.models import LoadedModel, load_model
from worker.prompts import encode_answer, encode_prompt, pad_id
from worker.runs import TrainingRun
from worker.store_sink import StoreSink
from worker.trainers import ExpertMaskingTrainer
from worker.training import build_trainer

REFUSAL = "I'm sorry, but I can't help with that."
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.1


@dataclass(frozen=True)
class Size:
    """The model, how many experts of how many layers learn, and how often everything is measured."""

    model: capture.Size = dataclasses.field(
        default_factory=lambda: capture.Size(hidden=256, intermediate=256, layers=4, experts=16, top_k=2)
    )
    chosen: int = 2
    batches: int = 8
    rounds: int = 5
    device: str = "cpu"
    dtype: str = "float32"


QUICK = Size(capture.Size(hidden=64, intermediate=32, layers=2, experts=8, top_k=2), batches=4, rounds=2)


def save_model(size: Size, folder: Path) -> None:
    """Write an OLMoE with random weights and OLMo's tokenizer, as a model of the models folder lies there."""
    capture.make_model(size.model).to(getattr(torch, size.dtype)).save_pretrained(folder)
    capture.real_tokenizer().save_pretrained(folder)


def make_batches(size: Size, loaded: LoadedModel) -> tuple[TrainBatch, ...]:
    """Plan analysis batches of 8 safe + 8 unsafe prompts and give each prompt its answer."""
    answers = {
        found["question"]: found["answer"]
        for found in map(json.loads, realdata.truthfulqa().read_text(encoding="utf-8").splitlines())
    }
    prompts = capture.real_prompts()
    plan = plan_batches(plan_rows(prompts), prompts.sha256, PlanSettings(batch_size=16, keep_short=False))
    batches = []
    for planned in plan.batches[: size.batches]:
        examples = []
        for sample in planned.samples:
            text = prompts.rows[sample.row_idx].messages[0].content
            ids = encode_prompt(loaded.tokenizer, [Message("user", text)]).ids
            answer = answers[text][0] if sample.label is Label.SAFE else REFUSAL
            examples.append(
                TrainExample(
                    prompt_ids=ids,
                    answer_ids=encode_answer(loaded.tokenizer, answer, 128),
                    batch_idx=planned.batch_idx,
                    batch_id="",
                    in_batch_idx=sample.in_batch_idx,
                    label=sample.label,
                    row_id=sample.row_id,
                    prompt_digest=prompt_digest(loaded.tokenizer_digest, loaded.template_digest, ids),
                )
            )
        identity = batch_id(examples)
        placed = tuple(dataclasses.replace(e, batch_id=identity) for e in examples)
        batches.append(TrainBatch(planned.batch_idx, identity, placed))
    return tuple(batches)


@dataclass(frozen=True, eq=False)
class Work:
    """Everything the ways are given, made before any clock runs."""

    size: Size
    folder: Path
    batches: tuple[TrainBatch, ...]
    database: FakeAnalysis

    def load(self) -> LoadedModel:
        """Return the model as it lies on the disk."""
        return load_model(self.folder / "model", dtype=self.size.dtype, device=self.size.device)

    def run(self, out: str, adapter: Adapter | None = None) -> TrainingRun:
        """Return one epoch over the batches in their order; the first experts of the first layers learn."""
        layers = range(min(2, self.size.model.layers))
        return TrainingRun(
            model_path=str(self.folder / "model"),
            batches=self.batches,
            out_dir=self.folder / out,
            experts=[(layer, expert) for layer in layers for expert in range(self.size.chosen)],
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            shuffle_batches=False,
            device=self.size.device,
            adapter=adapter,
        )


def prepare(size: Size, folder: Path) -> Work:
    """Write the model and a database with an analysis that trainings can belong to."""
    disable_progress_bar()
    save_model(size, folder / "model")
    batches = make_batches(size, load_model(folder / "model"))
    return Work(
        size, folder, batches, FakeAnalysis(url_of(folder / "tables.db"), Shape(1, 16), 1, FakeEngine(Shape(1, 16)))
    )


class PlainLoading(ExpertMaskingTrainer):
    """The same weights learn; batches come from a plain DataLoader, and nobody checks or records them."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        rows: Any = self.train_dataset
        super().get_train_dataloader()  # the callbacks of the trainer want its sampler
        return DataLoader(rows, batch_size=16, collate_fn=self.data_collator)


def ours(work: Work) -> Trainer:
    """Return the trainer of a job, recording into SQLite."""
    return recorded(work, work.run("ours"))


def adapter(work: Work) -> Trainer:
    """Return the same with low-rank adapters of the chosen experts in place of their rows."""
    return recorded(work, work.run("adapter", Adapter(rank=8)))


def recorded(work: Work, run: TrainingRun) -> Trainer:
    """Return the trainer of a run whose steps go into SQLite."""
    with writing(work.database.engine) as session:
        training = t.Training(
            id=t.new_id("tr"), name="bench", analysis_id=work.database.id, mode="selected", routing="free", params={}
        )
        training.status = "running"
        session.add(training)
    sink = StoreSink(work.database.engine, training.id, "job")
    return build_trainer(run, work.load(), sink, facts={})


def plain(work: Work) -> Trainer:
    """Return a trainer of the same weights without batches, checks and records."""
    run, loaded = work.run("plain"), work.load()
    return PlainLoading(
        loaded.model,
        arguments(work, "plain"),
        ExampleRows(run.batches),
        experts=run.experts,
        sites=loaded.sites,
        preserve_batches=False,
        data_collator=BatchCollator(pad_id(loaded.tokenizer)),
    )


def stock(work: Work) -> Trainer:
    """Return transformers' Trainer over the same rows, all weights learning."""
    loaded = work.load()
    rows = [_plain_row(row) for row in map(ExampleRows(work.batches).__getitem__, range(16 * len(work.batches)))]
    collator = DataCollatorForSeq2Seq(loaded.tokenizer)
    return Trainer(loaded.model, arguments(work, "stock"), train_dataset=rows, data_collator=collator)  # type: ignore[arg-type]


def _plain_row(example: dict[str, Any]) -> dict[str, Any]:
    ids, n = example["input_ids"].tolist(), example["prompt_length"]
    return {"input_ids": ids, "labels": [IGNORED] * n + ids[n:]}


def arguments(work: Work, out: str) -> TrainingArguments:
    """Return what the product's own trainer runs under."""
    return TrainingArguments(
        output_dir=str(work.folder / out),
        per_device_train_batch_size=16,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        use_cpu=work.size.device == "cpu",
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


Way = Callable[[Work], Trainer]
