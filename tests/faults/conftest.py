"""Faults and attacks: `make faults`. Every test here carries the mark `faults` and records one case.

With `--reliability FILE` each case is written down as it ends; a whole run drops the cases that are no more.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.api.conftest import api, client, empty_home, engine, settings
from tests.faults import record
from tests.faults.record import Case
from tests.faults.services import Calm, make_calm

__all__ = ["api", "client", "empty_home", "engine", "settings"]  # the API in this process, as its own tests have it

_cases = pytest.StashKey[list[Case]]()
_seen = pytest.StashKey[set[str]]()
_passed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="write what the cases found to this file, and a page beside it")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_seen] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """Return an analysis and a training that nothing disturbed: what all others are compared with."""
    return make_calm(tmp_path_factory.mktemp("calm"))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[[str, str], Case]:
    """Return what begins the case of a test: its name, and in words how the fault is made."""
    cases = request.node.stash.setdefault(_cases, [])

    def begin(name: str, how: str, *, attack: bool = False) -> Case:
        cases.append(Case(name, how, attack))
        return cases[-1]

    return begin


@pytest.fixture
def attack(fault: Callable[..., Case]) -> Callable[[str, str], Case]:
    """Return what begins the case of an attack."""
    return lambda name, how: fault(name, how, attack=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report: pytest.TestReport = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    path = item.config.getoption("--reliability", None)
    if report.when == "teardown" and not report.skipped:
        for case in item.stash.get(_cases, []):
            item.config.stash[_seen].add(case.case)
            if path is not None:
                row = record.row(case, passed=item.stash.get(_passed, False) and report.passed)
                record.write(path, record.merged(record.read(path), row))
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--reliability", None)
    whole = not session.config.getoption("keyword") and exitstatus in (0, 1) and not session.shouldstop
    if path is not None and whole:
        seen = session.config.stash[_seen]
        record.write(path, [one for one in record.read(path) if one["case"] in seen])
