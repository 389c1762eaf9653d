"""Runs parts of the benchmark and writes docs/benchmarks.json and, from it, docs/benchmarks.md.

    python -m benchmarks.report                    # every part
    python -m benchmarks.report analysis           # one part; its rows are merged with those of the others
    python -m benchmarks.report analysis --quick   # small sizes, printed only: to see that it runs

A part is a module benchmarks/<part>.py with `rows(quick) -> [{name, value, unit, goal, holds, how}]`. A part that
names others in INCLUDES runs them as its own pieces. Rows are replaced by name, so that running one part leaves the
figures of every other part as they are.
"""

import argparse
import importlib
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
JSON, MARKDOWN = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "benchmarks.md"
ORDER = ("analysis", "api", "import", "training", "dashboard", "scale", "load", "gpu")
HEADINGS = {
    "analysis": "Analysis",
    "api": "Reading over REST",
    "import": "Large prompt sets",
    "training": "Training",
    "dashboard": "Dashboard",
    "scale": "Many workers",
    "load": "Under load",
    "gpu": "On a GPU",
}
COMMAND = {"api": "analysis", "import": "analysis", "load": "scale"}  # whose part measures the rows of these names

Found = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of docs/benchmarks.json. goal: `<= 0.4`, or None for a figure without one; holds: value meets goal."""

    name: str
    value: float
    unit: str
    goal: str | None
    holds: bool | None
    how: str


def row(name: str, value: float, unit: str, how: str, goal: str | None = None, *, judge: bool = True) -> Found:
    """Return a row, judged against its goal on the value as it is written down."""
    shown = float(f"{value:.4g}")
    return asdict(Row(name, shown, unit, goal, meets(shown, goal) if judge else None, how))


def meets(value: float, goal: str | None) -> bool | None:
    """Tell whether a value meets a goal such as `<= 0.4` or `>= 3`."""
    if goal is None:
        return None
    sign, bound = goal.split()
    return value <= float(bound) if sign == "<=" else value >= float(bound)


def parts() -> dict[str, ModuleType]:
    """Return the parts that exist, without those that another part includes."""
    own = {"__init__", Path(__file__).stem}
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in own)
    found = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    found = {name: module for name, module in found.items() if hasattr(module, "rows")}
    included = {name for module in found.values() for name in getattr(module, "INCLUDES", ())}
    return {name: module for name, module in found.items() if name not in included}


def run(module: ModuleType, *, quick: bool) -> Iterator[list[Found]]:
    """Yield the rows of a part piece by piece, said as they come."""
    pieces = [importlib.import_module(f"benchmarks.{name}") for name in getattr(module, "INCLUDES", ())]
    for piece in [*pieces, module]:
        start = time.perf_counter()
        rows = piece.rows(quick)
        for one in rows:
            print(line(one), flush=True)
        if rows:
            print(f"  ({piece.__name__}: {time.perf_counter() - start:.0f} s)", flush=True)
        yield rows


def line(found: Found) -> str:
    """Return a row as one line for a terminal."""
    verdict = {None: "", True: f"  holds ({found['goal']})", False: f"  MISSED ({found['goal']})"}[found["holds"]]
    return f"{found['name']:44s} {found['value']:>10g} {found['unit']}{verdict}"


def peak_bytes() -> int:
    """Return the largest memory this process has held. What `getrusage` says starts with that of whoever started it."""
    try:
        held = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        held = None
    return int(held.group(1)) * 1024 if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> str:
    """Say on what the rows were measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    return f"{_processor()}, {cores} cores{load}; Python {platform.python_version()}, {packages}"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()


def merge(kept: list[Found], new: list[Found]) -> list[Found]:
    """Return the rows of both, new ones in place of older ones of the same name, sorted as the page shows them."""
    by_name = {one["name"]: one for one in [*kept, *new]}
    return sorted(by_name.values(), key=lambda one: (_place(one["name"]), one["name"]))


def _place(name: str) -> int:
    head = name.split(".", maxsplit=1)[0]
    return ORDER.index(head) if head in ORDER else len(ORDER)


def write(new: list[Found]) -> None:
    """Merge rows into docs/benchmarks.json and write docs/benchmarks.md from all of it."""
    kept = json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else []
    measured_on = machine()
    merged = merge(kept, [one | {"measured_on": measured_on} for one in new])
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    MARKDOWN.write_text(page(merged), encoding="utf-8")


def page(rows: list[Found]) -> str:
    """Return docs/benchmarks.md."""
    missed = [one["name"] for one in rows if one["holds"] is False]
    judged = sum(one["holds"] is not None for one in rows)
    text = [
        "# Benchmarks",
        "",
        "Written by `make bench` from [benchmarks.json](benchmarks.json). What is compared was measured side by side,",
        "in one run on one machine: a ratio below 1 means less than what it is compared with.",
        "",
        f"{judged - len(missed)} of {judged} goals hold." + (f" Missed: {', '.join(missed)}." if missed else ""),
    ]
    heads = sorted({one["name"].split(".")[0] for one in rows}, key=_place)
    for head in heads:
        text += ["", f"## {HEADINGS.get(head, head)}", "", f"`make bench BENCH={COMMAND.get(head, head)}`", ""]
        text += ["| figure | value | goal | holds | how |", "|---|---|---|---|---|"]
        text += [_cells(one) for one in rows if one["name"].split(".")[0] == head]
    machines = sorted({one["measured_on"] for one in rows if "measured_on" in one})
    text += ["", "## Measured on", "", *(f"- {one}" for one in machines), ""]
    return "\n".join(text)


def _cells(one: Found) -> str:
    holds = {None: "", True: "yes", False: "**no**"}[one["holds"]]
    cells = (f"`{one['name']}`", f"{one['value']:g} {one['unit']}".strip(), one["goal"] or "", holds, one["how"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Run the named parts, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help="analysis, training, ... (default: every part there is)")
    parser.add_argument("--quick", action="store_true", help="small sizes, goals not judged, nothing written")
    chosen = parser.parse_args()
    found = parts()
    wanted = {}
    for name in chosen.part or found:
        try:
            wanted[name] = importlib.import_module(f"benchmarks.{name}")
        except ModuleNotFoundError:
            print(f"There is no benchmark {name!r}; there are: {', '.join(found)}.", file=sys.stderr)
            return 2
    for module in wanted.values():
        for rows in run(module, quick=chosen.quick):
            if rows and not chosen.quick:
                write(rows)  # after each piece, so that a later one that breaks takes nothing with it
    if not chosen.quick:
        print(f"{JSON.relative_to(ROOT)} and {MARKDOWN.relative_to(ROOT)} are written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
