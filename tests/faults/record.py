"""What a run of faults and attacks found, case by case: docs/reliability.json and, from it, docs/reliability.md.

A case is one fault or attack, tried so many times. `lost` and `doubled` are counted from stored rows and the trained
weights against an undisturbed run; `let_in` from what an attack reached. All three must be zero, and its test passes.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Found = dict[str, Any]


@dataclass
class Case:
    """One fault or attack while it is tried. seconds: from each fault until all was well again."""

    case: str
    how: str
    attack: bool = False
    tries: int = 0
    lost: int = 0
    doubled: int = 0
    let_in: int = 0
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def recovering(self) -> Iterator[None]:
        """Measure the time from a fault until all is well again."""
        begun = time.monotonic()
        yield
        self.seconds.append(time.monotonic() - begun)

    def attempt(self, let_in: bool) -> None:
        """Count one attack, and whether it reached anything."""
        self.tries += 1
        self.let_in += let_in

    @property
    def zeros(self) -> bool:
        """Whether something was tried, and nothing lost, doubled or let in."""
        return self.tries > 0 and not (self.lost or self.doubled or self.let_in)


def row(case: Case, *, passed: bool) -> Found:
    """Return a case as it is written down. recovery_seconds: the longest; None where there is nothing to recover."""
    longest = round(max(case.seconds), 1) if case.seconds else None
    kept = {name: value for name, value in asdict(case).items() if name != "seconds"}
    today = datetime.now(UTC).date().isoformat()
    return kept | {"recovery_seconds": longest, "holds": passed and case.zeros, "date": today}


def merged(rows: list[Found], new: Found) -> list[Found]:
    """Return the rows with one replaced, by the name of its case, or added; faults first, each in its order."""
    found = [new if one["case"] == new["case"] else one for one in rows]
    found += [new] * (new["case"] not in {one["case"] for one in rows})
    return sorted(found, key=lambda one: bool(one["attack"]))


def read(path: Path) -> list[Found]:
    """Return the rows of a record; none where there is none."""
    return list(json.loads(path.read_text())) if path.exists() else []


def write(path: Path, rows: list[Found]) -> None:
    """Write the record and, beside it, the page that people read."""
    path.write_text(json.dumps(rows, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(rows))


def machine() -> str:
    """Say on what it ran, without naming the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in ("routeprint", "dbos", "sqlalchemy", "torch"))
    return f"{cores} cores, no GPU; {platform.system()}, Python {platform.python_version()}, {packages}"


def page(rows: list[Found]) -> str:
    """Return the record as Markdown."""
    missed = [one["case"] for one in rows if not one["holds"]]
    held = f"{len(rows) - len(missed)} of {len(rows)} cases hold."
    faults, attacks = ([one for one in rows if bool(one["attack"]) is kind] for kind in (False, True))
    lines = [
        "# Reliability",
        "",
        "Written by `make faults`, which injects each fault and tries each attack below, from",
        "[reliability.json](reliability.json). `make faults FAULT=<words>` runs some and replaces their lines.",
        "",
        f"{held}{' Missed: ' + '; '.join(missed) + '.' if missed else ''} Measured on {machine()}.",
        "",
        "## Faults",
        "",
        "Real services (backend, workers, their child processes) and tiny real models. *Lost* and *doubled* are",
        "counted row by row (batches, samples, routing, sums, targets, steps) and by the SHA-256 of the trained",
        "weights, against a run that nothing disturbed: a row or file of that run which is not there is lost, one",
        "which it has not is doubled. *Seconds* is the longest time from a fault until all was well again.",
        "",
        "| fault | tries | lost | doubled | seconds | holds | on | how |",
        "|---|---:|---:|---:|---:|---|---|---|",
        *(_line(one, "lost", "doubled", "recovery_seconds") for one in faults),
        "",
        "## Attacks",
        "",
        "*Let in* counts the tries that reached what they must not: an answer that is no refusal, a file outside its",
        "folder, code that ran, memory that filled, text that became markup.",
        "",
        "| attack | tries | let in | holds | on | how |",
        "|---|---:|---:|---|---|---|",
        *(_line(one, "let_in") for one in attacks),
        "",
    ]
    return "\n".join(lines)


def _line(one: Found, *names: str) -> str:
    shown = ["" if one[name] is None else str(one[name]) for name in names]
    cells = [one["case"], str(one["tries"]), *shown, "yes" if one["holds"] else "**no**", one["date"], one["how"]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
