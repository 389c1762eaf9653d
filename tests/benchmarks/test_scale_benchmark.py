"""The parts of the benchmark that need services, in small: that they measure what they say."""

from pathlib import Path

import pytest

from benchmarks import load, report, scale, sleeping, storing, without_torch


def test_every_dashboard_asks_once_a_second_and_a_fifth_of_them_stand_on_the_jobs_page() -> None:
    size = load.Size()
    asked = [load.calls("an_1", number, 1, size) for number in range(size.dashboards)]
    assert sum("/jobs?limit=100" in paths for paths in asked) == 10
    assert all(paths for paths in asked)
    pages = [turn for turn in range(60) if len(load.calls("an_1", 1, turn, size)) > 1]
    assert pages == [29, 59]


@pytest.mark.slow
def test_readers_under_load_are_answered_while_batches_land(tmp_path: Path) -> None:
    size = load.Size(dashboards=4, seconds=6.0, rate=4.0, warm=1.0, redraw=2)
    outcome = load.loaded(tmp_path / "home", size)
    assert outcome.seen.errors == []
    assert outcome.stored >= 5
    assert len(outcome.seen.seconds) >= 8
    rows = load._rows("SQLite", "", outcome, size, True)
    assert [row["name"] for row in rows][:2] == ["load.read_p95_ms", "load.errors"]
    assert rows[1]["value"] == 0


def test_rows_of_many_workers_are_shares_of_what_one_worker_does() -> None:
    found = scale._fleet_rows({1: (2.0, 2.1), 2: (3.9, 4.0), 4: (7.4, 7.9)}, scale.Size(), quick=False)
    assert [(row["name"], row["value"], row["holds"]) for row in found] == [
        ("scale.efficiency_2_workers", 0.975, None),
        ("scale.efficiency_4_workers", 0.925, True),
    ]
    few, many = scale.Plane(60.0, 80.0, 2.0, "x"), scale.Plane(90.0, 99.0, 3.0, "y")
    plane = scale._plane_rows({1: scale.Plane(50.0, 90.0, 4.0, "z")}, {1: few, 2: many}, scale.Size())
    assert [row["value"] for row in plane] == [90.0, 50.0, 3.0]


def test_the_engine_that_sleeps_is_named_nowhere_in_the_product() -> None:
    for folder in ("backend", "worker", "dashboard"):
        for path in (report.ROOT / folder).rglob("*.py"):
            assert "sleeping" not in path.read_text(encoding="utf-8").lower(), path


def test_what_stands_in_for_torch_stands_in_for_nothing_else() -> None:
    finder = without_torch._Finder()
    assert finder.find_spec("torch.nn.functional", None) is not None
    assert finder.find_spec("numpy", None) is None
    assert set(sleeping.environment(0.1)) == {"PYTHONPATH", "SLEEPING_ENGINE_SECONDS"}
    assert storing.SHAPE.raw_bytes == 16 * 16 * 64 * 4
