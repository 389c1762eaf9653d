"""What the statistics of one level cost: max-T permutations and bootstrap intervals at the size of a large model.

    python -m benchmarks.permutation            # 2,000 prompts x 58 x 256 experts x 10,000 permutations
    python -m benchmarks.permutation --quick    # a hundredth of it, to see that it runs

Every part runs in a process of its own, whose peak memory is its own. The plain NumPy loop (one permutation at a time:
deal the labels, take means and variances of both sides) is measured beside it in the same run, on a stated number of
permutations. Prints and returns rows of {name, value, unit, goal, holds, how}.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.bootstrap import bootstrap_intervals
from backend.domain.statistics.permutation import permutation_test
from backend.domain.statistics.samples import Samples, samples_of
from benchmarks.report import peak_bytes


@dataclass(frozen=True)
class Size:
    """How large the level is, and how many permutations the plain loop is measured on."""

    prompts: int = 2000
    sites: int = 58
    experts: int = 256
    permutations: int = 10_000
    resamples: int = 1999
    loop_permutations: int = 20


QUICK = Size(prompts=200, sites=8, experts=64, permutations=1000, resamples=299, loop_permutations=20)


LAYOUTS = {
    "prompts": "40 % unsafe prompts",
    "pairs": "contrast pairs (sign flips)",
    "whole_groups": "groups of 4 prompts with one label",
    "inside_groups": "groups of 2 + 2 prompts",
}


def make_samples(size: Size, layout: str) -> Samples:
    """Random counts (top-8 on average) of prompts with 10 to 60 tokens; 40 % unsafe unless in pairs or groups."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 61, size.prompts)
    counts = np.empty((size.prompts, size.sites, size.experts), dtype=np.uint16)
    rates = 8 / size.experts * rng.uniform(0.3, 1.7, (size.sites, size.experts))
    for at, n in enumerate(tokens.tolist()):
        counts[at] = np.minimum(rng.poisson(n * rates, counts.shape[1:]), n)
    place = np.arange(size.prompts)
    labels, groups = {
        "prompts": (place % 5 < 2, None),
        "pairs": (place % 2 == 1, [f"pair {at // 2}" for at in place.tolist()]),
        "whole_groups": (place // 4 % 5 < 2, [f"topic {at // 4}" for at in place.tolist()]),
        "inside_groups": (place % 4 < 2, [f"topic {at // 4}" for at in place.tolist()]),
    }[layout]
    return samples_of(counts, tokens, labels.astype(np.int8), groups=groups)


def plain_loop(rates: NDArray[np.float32], labels: NDArray[np.int8], n: int) -> NDArray[np.float32]:
    """Return the largest |t| of n permutations, as anyone would write it."""
    rng = np.random.default_rng(1)
    largest = np.empty(n, dtype=np.float32)
    for at in range(n):
        unsafe = rng.permutation(labels) == 1
        one, other = rates[unsafe], rates[~unsafe]
        variance = one.var(axis=0) / len(one) + other.var(axis=0) / len(other)
        largest[at] = np.abs((one.mean(axis=0) - other.mean(axis=0)) / np.sqrt(variance)).max()
    return largest


def _measure(part: str, size: Size) -> dict[str, Any]:
    """Run one part here, and say how long it took and what it needed in memory."""
    what, _, layout = part.partition(":")
    samples = make_samples(size, layout)
    start, processor = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {}
    if what == "permutations":
        test = permutation_test(samples, seed="benchmark", n_permutations=size.permutations)
        result = {"scheme": str(test.design.scheme), "critical_t": test.critical_t, "tested": test.n_tested}
    elif what == "bootstrap":
        bootstrap_intervals(samples, seed="benchmark", n_resamples=size.resamples)
    else:
        result = {
            "median_largest_t": float(np.median(plain_loop(samples.numerators, samples.labels, size.loop_permutations)))
        }
    used = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
    return result | used | {"peak_gb": peak_bytes() / 2**30}


def _in_own_process(part: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.permutation", "--part", part, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Row:
    """One line of docs/benchmarks.json."""

    name: str
    value: float
    unit: str
    goal: str | None
    holds: bool | None
    how: str


def _cores(measured: dict[str, Any]) -> str:
    """Say how much of the time was really computed: on a busy machine it is less than the seconds x cores."""
    return f"{measured['processor_seconds']:.0f} processor-seconds on {len(os.sched_getaffinity(0))} cores"


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """Measure everything and return the rows. Goals are judged at full size only."""
    size = QUICK if quick else Size()
    level = f"{size.prompts:,} prompts x {size.sites * size.experts:,} experts x {size.permutations:,} permutations"
    loop = _in_own_process("loop:prompts", quick)
    ours = _in_own_process("permutations:prompts", quick)
    loop_seconds = loop["seconds"] * size.permutations / size.loop_permutations

    def row(name: str, value: float, unit: str, how: str, most: float | None = None) -> Row:
        goal = None if most is None else f"<= {most:g}"
        return Row(name, round(value, 4), unit, goal, None if most is None or quick else value <= most, how)

    found = [
        row("analysis.statistics_seconds", ours["seconds"], "s", f"max-T, {level}, labels 40 : 60; {_cores(ours)}", 60),
        row("analysis.statistics_peak_gb", ours["peak_gb"], "GB", "peak memory of that process, data included", 1.5),
        row(
            "analysis.statistics_vs_numpy_loop",
            ours["seconds"] / loop_seconds,
            "ratio",
            f"same run; the loop measured on {size.loop_permutations} permutations: {loop_seconds:.0f} s for all",
            1,
        ),
    ]
    for layout in ("pairs", "whole_groups", "inside_groups"):
        own = _in_own_process(f"permutations:{layout}", quick)
        how = f"max-T, {level}, {LAYOUTS[layout]}; {_cores(own)}"
        found.append(row(f"analysis.statistics_seconds_{layout}", own["seconds"], "s", how))
    bootstrap = _in_own_process("bootstrap:prompts", quick)
    how = f"{size.resamples:,} resamples of the same prompts, an interval for every expert; {_cores(bootstrap)}"
    found.append(row("analysis.bootstrap_seconds", bootstrap["seconds"], "s", how))
    return [asdict(own) for own in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small level, without goals")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        print(json.dumps(_measure(chosen.part, QUICK if chosen.quick else Size())))
        return
    print(json.dumps(rows(chosen.quick), indent=1))


if __name__ == "__main__":
    main()
