"""The capture and training figures on a GPU; says "no GPU" where there is none.

    make gpu-check

A model of the shape of OLMoE-1B-7B with random weights in bf16: tokens per second of the product's engine, its time
over that of a plain padded forward pass of the same batches, and the flip rate: the share of expert choices that fall
elsewhere when a prompt is measured alone instead of grouped (in bf16 a near-tie depends on the shape of the pass; in
float32 on a CPU the tests find none). Then the training part of `make bench` in bf16, on a smaller model, with the
memory of the GPU's allocator. The rows go into docs/benchmarks.json beside those of `make bench`.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from backend.domain.vocabulary import Scope
from benchmarks import training, ways
from benchmarks.capture import Size, Work, ours, plain, prepare
from benchmarks.report import Found, line, row, write
from worker.capture.transformers import TransformersEngine


@dataclass(frozen=True)
class Shape:
    """OLMoE-1B-7B-0924."""

    hidden: int = 2048
    intermediate: int = 1024
    layers: int = 16
    heads: int = 16


TINY = Shape(hidden=128, intermediate=64, layers=2, heads=4)


def make_model(shape: Shape, device: torch.device) -> PreTrainedModel:
    """Build the model with random weights in bf16, on the device."""
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=50_304,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        num_experts=64,
        num_experts_per_tok=8,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return OlmoeForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def seconds_of(work: Work, rounds: int) -> tuple[float, float]:
    """Return the median seconds of ours and of the plain pass, in turn."""
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        took = []
        for way in (ours, plain):
            start = time.perf_counter()
            way(work)
            if work.loaded.device.type == "cuda":
                torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        found.append((took[0], took[1]))
    return median(one for one, _ in found), median(other for _, other in found)


def flip_rate(work: Work, n_batches: int) -> tuple[float, int]:
    """Return the share of expert choices that fall elsewhere when each prompt runs alone, and how many there are."""
    engine = TransformersEngine(work.loaded, scopes=(Scope.PROMPT,), micro_batch_tokens=1)
    alone = engine.measure(work.plan.batches[:n_batches], work.inputs[:n_batches])
    counts = np.concatenate([m.routing[Scope.PROMPT].counts for m in alone]).astype(np.int64)
    grouped = ours(work)[: len(counts)]
    return float(np.abs(counts - grouped).sum() / 2 / counts.sum()), int(counts.sum())


def figures(shape: Shape, device: torch.device, name: str, n_batches: int, rounds: int) -> list[Found]:
    """Return the rows of this device."""
    work = prepare(Size(batches=n_batches), make_model(shape, device))
    ours(work)
    plain(work)
    mine, forward = seconds_of(work, rounds)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in work.padded)
    flips, compared = flip_rate(work, min(4, n_batches))
    what = (
        f"{name}; OLMoE-1B-7B's shape, random weights, bf16; {16 * len(work.inputs)} real prompts, {tokens:,} tokens, "
        f"batches of 16; medians of {rounds} interleaved runs"
    )
    if shape != Shape():
        what = what.replace("OLMoE-1B-7B's shape", "a tiny shape")
    return [
        row("gpu.capture_tokens_per_s", tokens / mine, "tokens/s", what),
        row("gpu.capture_vs_forward", mine / forward, "ratio", f"{what}: plain {forward:.2f} s, ours {mine:.2f} s"),
        row("gpu.bf16_flip_rate", flips, "share", f"{name}; of {compared:,} expert choices, grouped against alone"),
    ]


def training_figures(device: torch.device, *, tiny: bool) -> list[Found]:
    """Return the rows of training on this device; `tiny` only shows that they can be had."""
    size = ways.Size(
        Size(hidden=1024, intermediate=512, layers=8), chosen=8, rounds=5, device=str(device), dtype="bfloat16"
    )
    with tempfile.TemporaryDirectory(prefix="routeprint-bench-") as name:
        return training.figures(ways.QUICK if tiny else size, Path(name), "gpu.training", judge=not tiny)


def main() -> int:
    """Measure on the GPU, or say that there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on any device, printed only")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        print("no GPU")
        return 0
    if torch.cuda.is_available():
        device, name = torch.device("cuda"), torch.cuda.get_device_name()
    else:
        device, name = torch.device("cpu"), "CPU"
    rows = figures(TINY, device, name, 4, 2) if tiny else figures(Shape(), device, name, 32, 7)
    rows += training_figures(device, tiny=tiny)
    for one in rows:
        print(line(one))
    if not tiny:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
