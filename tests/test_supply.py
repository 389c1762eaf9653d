"""What comes with us: every dependency is used, has a tested range and a pin, and a licence we may pass on. Offline."""

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_HERE = {"vllm"}  # in an environment of its own (make test-vllm), which pins its own torch
BUILDS = {"torch"}  # comes in several builds with version suffixes of their own; the Makefile pins it
MAY_PASS_ON = [
    r"MIT( License|-0|-CMU)?",
    r"(The )?(Apache|APACHE)[ -](Software )?(License,? )?(Version )?2\.0( License)?( WITH LLVM-exception)?",
    r"Apache Software License",
    r"((2|3)-Clause )?BSD( License|-2-Clause|-3-Clause)?",
    r"0BSD|BSL-1\.0|Zlib|zlib|CC0-1\.0|Unlicense|The Unlicense \(Unlicense\)|ISC|ISC License \(ISCL\)|HPND",
    r"(Python Software Foundation License|PSF-2\.0|CNRI-Python|Python-2\.0)",
    r"(Mozilla Public License 2\.0 \(MPL 2\.0\)|MPL-2\.0)",  # file by file; we change no file of theirs
    r"DFSG approved",
]
BY_NAME = {
    "psycopg": "LGPL-3.0-only: used unchanged, as a library, and only where PostgreSQL is chosen",
    "psycopg-binary": "LGPL-3.0-only: as psycopg",
}
"""Packages whose licence is none of the above, and why they are here all the same."""


def requirements(*extras: str) -> list[Requirement]:
    """Our own direct requirements, with those of the named extras (all of them if none is named)."""
    optional = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(line for name in extras or optional for line in optional[name])]
    found = [Requirement(line) for line in listed]
    return [one for one in found if one.name != "routeprint"]


@cache
def closure(*extras: str) -> frozenset[str]:
    """Names of everything installed that our requirements bring along."""
    open_, seen = [(one.name, frozenset(one.extras)) for one in requirements(*extras)], set()
    while open_:
        name, wanted = open_.pop()
        key = (canonicalize_name(name), wanted)
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # another platform's, or an extra that is not installed
            seen.discard(key)
            continue
        for one in map(Requirement, lines):
            if any(one.marker is None or one.marker.evaluate({"extra": extra}) for extra in (wanted or {""})):
                open_.append((one.name, frozenset(one.extras)))
    return frozenset(str(name) for name, _ in seen)


@cache
def pins() -> dict[str, str]:
    """constraints.txt: name -> version."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if name}


@pytest.mark.parametrize("one", requirements(), ids=str)
def test_every_dependency_has_a_range_that_was_tested_and_a_pin_inside_it(one: Requirement) -> None:
    operators = {spec.operator for spec in one.specifier}
    assert {">=", "<"} <= operators, "a lower bound that ran, and the next line that nobody has tried"
    name = canonicalize_name(one.name)
    if name not in NOT_HERE | BUILDS:
        assert name in pins(), f"{one.name} is not in constraints.txt"
        assert one.specifier.contains(Version(pins()[name])), pins()[name]


def test_everything_that_our_dependencies_bring_along_is_pinned() -> None:
    brought = closure() - NOT_HERE - BUILDS - {"setuptools", "pip", "triton"}
    missing = {name for name in brought - set(pins()) if not name.startswith(("nvidia-", "cuda-"))}
    assert missing == set(), "add them to constraints.txt"
    assert len(brought) > 80


def test_what_is_installed_is_what_is_pinned() -> None:
    """So that the other tests speak of what users get."""
    other = {name: metadata.version(name) for name in closure() & set(pins()) if metadata.version(name) != pins()[name]}
    assert other == {}


def test_every_licence_is_one_that_we_may_pass_on() -> None:
    names = sorted(closure("backend", "worker", "dashboard", "oidc", "postgres", "tracking"))
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--packages", *names]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(listed) > 60
    odd = {
        one["Name"]: one["License"]
        for one in listed
        if canonicalize_name(one["Name"]) not in BY_NAME and not _may_pass_on(one["License"])
    }
    assert odd == {}, "look at the licence; then allow it, or leave the package out"


def _may_pass_on(licence: str) -> bool:
    """A choice (OR) needs one licence that is allowed; AND and a list of classifiers need all."""
    allowed = re.compile("|".join(f"(?:{one})" for one in MAY_PASS_ON))
    parts = re.split(r"; | AND ", licence.replace("(", "").replace(")", "") if " AND " in licence else licence)
    return all(any(allowed.fullmatch(one.strip()) for one in part.split(" OR ")) for part in parts)


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "UNKNOWN", "MIT AND AGPL-3.0-only", "", "Proprietary; MIT License"]
)
def test_a_licence_that_is_not_listed_is_not_passed_on(licence: str) -> None:
    assert not _may_pass_on(licence)


def test_no_dependency_is_unused_undeclared_or_misplaced() -> None:
    done = subprocess.run([sys.executable, "-m", "deptry", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_bill_of_materials_names_what_runs(tmp_path: Path) -> None:
    made = bill(tmp_path / "sbom.json")
    components = {one["name"].lower(): one for one in made["components"]}
    assert (made["bomFormat"], made["metadata"]["component"]["name"]) == ("CycloneDX", "routeprint")
    assert components["fastapi"]["version"] == metadata.version("fastapi")
    assert components["fastapi"]["purl"].startswith("pkg:pypi/fastapi@")


def bill(path: Path) -> dict[str, Any]:
    """Write the bill of materials as `make sbom` does (which lets the tool check its own writing too), and read it."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml", "--no-validate"]
    subprocess.run([*command, "-o", str(path), sys.executable], cwd=ROOT, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
