"""What training an expert set in its analysis batches costs, beside a stock full fine-tune of the same model and data.

Four ways, each over the same batches of 16 real prompts with their answers, one after the other in every round:

- ours:  the product's trainer as a job runs it: whole analysis batches, every step verified and recorded in SQLite;
- plain: the same weights learn, from a plain DataLoader, and nothing is verified or recorded;
- stock: transformers' own Trainer, all weights learn;
- adapter: ours, with low-rank adapters of the same experts in place of their rows.

Memory is measured in a process of its own for each. Prompts: Do-Not-Answer, answered by a refusal, and TruthfulQA with
its accepted answers. Not covered: several processes, what the training achieves.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
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
from benchmarks.report import Found, peak_bytes, row
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


class Clock(TrainerCallback):
    """Takes the time of every step, from the end of the one before: loading of data, step and record."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.last = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = self._now()
        self.seconds.append(now - self.last)
        self.last = now


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


def epoch(way: Way, work: Work) -> tuple[list[float], Trainer]:
    """Train one epoch on a fresh model; return the seconds of every step and the trainer."""
    trainer, clock = way(work), Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds, trainer


def state_bytes(trainer: Trainer) -> int:
    """Return the bytes of all tensors that the optimizer keeps."""
    optimizer = trainer.optimizer
    assert optimizer is not None
    states = getattr(optimizer, "optimizer", optimizer).state.values()
    return sum(v.numel() * v.element_size() for state in states for v in state.values() if isinstance(v, torch.Tensor))


def least_bytes(trainer: Trainer) -> int:
    """Return what AdamW must keep for the chosen rows: two float32 moments each (a float32 copy of 16-bit rows too)."""
    assert isinstance(trainer, ExpertMaskingTrainer)
    tensors = [weight for owned in trainer.weights.rows for weight in owned.weights()]
    return sum(w.numel() * (8 if w.dtype == torch.float32 else 12) for w in tensors)


def grown(way: Way, work: Work) -> float:
    """Return by how many MB an epoch raises peak memory above the loaded model: this process' own, or the GPU's."""
    trainer = way(work)
    if work.size.device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = psutil.Process().memory_info().rss
    trainer.train()
    return (peak_bytes() - before) / 2**20


def in_own_process(way: str, quick: bool) -> float:
    """Measure the memory of one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory", way, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure(work: Work, ways: Sequence[Way]) -> tuple[dict[str, list[list[float]]], dict[str, Trainer]]:
    """Run the ways in turn, round after round; return {way: [round][step] seconds} and the last trainers."""
    seconds: dict[str, list[list[float]]] = {way.__name__: [] for way in ways}
    trainers = {}
    for number in range(work.size.rounds + 1):
        order = ways if number % 2 else tuple(reversed(ways))
        for way in order:
            took, trainers[way.__name__] = epoch(way, work)
            if number:  # the first round only warms up
                seconds[way.__name__].append(took)
    return seconds, trainers


def step_ratio(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the median over rounds and steps of one's time over the other's, step by step on the same data."""
    return median(a / b for mine, theirs in zip(one, other, strict=True) for a, b in zip(mine, theirs, strict=True))


def figures(size: Size, folder: Path, prefix: str, *, judge: bool) -> list[Found]:
    """Return the rows of one device; peak memory only where it is a GPU's (`rows` needs processes for it)."""
    work = prepare(size, folder)
    seconds, trainers = measure(work, (ours, plain, stock, adapter))
    on_gpu = []
    if size.device != "cpu":
        on_gpu = [memory_row(prefix, grown(ours, work), grown(stock, work), "the GPU's allocator")]
    work.database.close()
    middle = {name: median(sum(took) for took in rounds) / len(work.batches) for name, rounds in seconds.items()}
    least, state = least_bytes(trainers["ours"]), state_bytes(trainers["ours"])
    n = sum(p.numel() for p in trainers["stock"].model.parameters()) / 1e6  # type: ignore[union-attr]
    what = (
        f"OLMoE of {n:.0f} M parameters ({size.model.layers} layers x {size.model.experts} experts), {size.chosen} "
        f"experts in each of 2 layers learn, {size.dtype}, {len(work.batches)} batches of 16 real prompts with "
        f"answers, {size.rounds} interleaved epochs"
    )
    return [
        *on_gpu,
        row(
            f"{prefix}.step_vs_full",
            middle["ours"] / middle["stock"],
            "ratio",
            f"{what}: ours {middle['ours'] * 1000:.0f} ms a step, stock Trainer, full, {middle['stock'] * 1000:.0f} ms",
            "<= 0.6",
            judge=judge,
        ),
        row(
            f"{prefix}.preservation_overhead",
            step_ratio(seconds["ours"], seconds["plain"]),
            "ratio",
            f"{what}: batches kept, every step verified and recorded in SQLite, against a plain DataLoader; median of "
            f"the steps' ratios on the same data; plain {middle['plain'] * 1000:.0f} ms a step",
            "<= 1.03",
            judge=judge,
        ),
        row(
            f"{prefix}.optimizer_memory_vs_minimum",
            state / least,
            "ratio",
            f"{state:,} bytes of state for rows that need {least:,}; full: {state_bytes(trainers['stock']):,}",
            "<= 1.05",
            judge=judge,
        ),
        row(
            f"{prefix}.adapter_optimizer_memory_vs_rows",
            state_bytes(trainers["adapter"]) / state,
            "ratio",
            f"{state_bytes(trainers['adapter']):,} bytes of state for adapters of rank 8 on the same experts, "
            f"{state:,} for their whole rows; a step takes {middle['adapter'] / middle['ours']:.2f} of the rows' time",
        ),
    ]


def memory_row(prefix: str, mine: float, full: float, where: str) -> Found:
    """Return the row of peak memory from the MB that each way adds to the loaded model."""
    how = f"peak memory above the loaded model over one epoch, {where}: ours {mine:.0f} MB, stock, full, {full:.0f} MB"
    return row(f"{prefix}.peak_memory_vs_full", mine / full, "ratio", how)


def rows(quick: bool = False) -> list[Found]:
    """Return the rows of training."""
    mine, full, low_rank = (in_own_process(name, quick) for name in ("ours", "stock", "adapter"))
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name:
        found = figures(QUICK if quick else Size(), Path(name), "training", judge=not quick)
    where = "each in a process of its own"
    how = f"peak memory above the loaded model over one epoch, {where}: adapters {low_rank:.0f} MB, rows {mine:.0f} MB"
    beside = row("training.adapter_peak_memory_vs_rows", low_rank / mine, "ratio", how)
    return [*found, memory_row("training", mine, full, where), beside]


def main() -> None:
    """Measure one way's memory, for `rows`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", choices=("ours", "stock", "adapter"), required=True)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name:
        work = prepare(QUICK if chosen.quick else Size(), Path(name))
        print(grown({"ours": ours, "stock": stock, "adapter": adapter}[chosen.memory], work))
        work.database.close()


if __name__ == "__main__":
    main()
