"""What training an expert set in its analysis batches costs, beside a stock full fine-tune of the same model and data.

The four ways of benchmarks/ways.py, one after the other in every round. Memory is measured in a process of its own for
each. Not covered: several processes, what the training achieves.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from benchmarks.report import Found, peak_bytes, row
from benchmarks.ways import QUICK, Size, Way, Work, adapter, ours, plain, prepare, stock
from worker.trainers import ExpertMaskingTrainer


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
