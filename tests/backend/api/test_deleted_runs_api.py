"""Deleted runs: restored inside their window, freed after it, and never anything that a kept run stands on."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from filelock import FileLock
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, inspect, select, update
from typer.testing import CliRunner

from backend import retention
from backend.api.app import create_app
from backend.backup import backup, restore, sqlite_path
from backend.cli import app as commands
from backend.settings import Settings, get_settings
from backend.store import imports, purging, runs
from backend.store import tables as t
from backend.store.engine import make_engine, reading, writing
from tests.backend.api.calls import Api
from tests.backend.api.conftest import TOKEN
from tests.backend.worlds import build, delete_long_ago, rows

NOUNS = {"prompt set": "datasets", "analysis": "analyses", "study": "studies", "statistics": "statistics"}


class Stopped(Exception):
    """The process that purged is killed here."""


def path_of(kind: str, id_: str) -> str:
    return f"/{NOUNS.get(kind, f'{kind}s')}/{id_}"


def purge(settings: Settings, engine: Engine, days: float | None = None, **kwargs) -> list[str]:
    forgotten: list[str] = []
    return [one.run.id for one in retention.purge(settings, engine, forgotten.extend, days=days, **kwargs)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> tuple[Path, dict[str, str]]:
    """A home in which all of that is stored: copying it is faster than making it."""
    home = tmp_path_factory.mktemp("world") / "home"
    shutil.copytree(empty_home, home)
    settings = Settings(home=home, token=TOKEN)
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        made = build(Api(client), app.state.edge.engine, settings)
    app.state.edge.engine.dispose()
    return home, made


@pytest.fixture(autouse=True)
def _no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the database here."""
    monkeypatch.setattr(imports, "REST_SECONDS", 0.0)


@pytest.fixture
def settings(tmp_path: Path, built: tuple[Path, dict[str, str]]) -> Settings:
    shutil.copytree(built[0], tmp_path / "home")
    return Settings(home=tmp_path / "home", token=TOKEN)


@pytest.fixture
def world(api: Api, engine: Engine, settings: Settings, built: tuple[Path, dict[str, str]]) -> SimpleNamespace:
    folder = settings.artifacts_path / "trainings" / built[1]["training"]
    return SimpleNamespace(api=api, engine=engine, settings=settings, folder=folder, home=built[0], **built[1])


def test_inside_the_window_a_deleted_run_comes_back_as_it_was(world):
    before, path = rows(world.engine), path_of("training", world.training)
    world.api.call("DELETE", path, 204)
    assert purge(world.settings, world.engine) == []
    assert world.api.post(f"{path}/undelete")["deleted_at"] is None
    assert (rows(world.engine), world.folder.is_dir()) == (before, True)


def test_after_the_window_rows_and_files_are_gone_and_nobody_finds_the_run(world):
    world.api.call("DELETE", path_of("training", world.training), 204)
    with writing(world.engine) as session:
        session.add(
            t.JobLog(
                job_id=session.scalar(select(t.Job.id).where(t.Job.subject_id == world.training)),
                level="info",
                message="m",
            )
        )
    delete_long_ago(world.engine, [world.training])
    kept = {id_: n for id_, n in rows(world.engine).items() if id_ != world.training}
    assert purge(world.settings, world.engine) == [world.training]
    assert (rows(world.engine), world.folder.exists()) == (kept, False)
    for verb in ("", "/undelete"):
        world.api.call("POST" if verb else "GET", path_of("training", world.training) + verb, 404)
    with reading(world.engine) as session:
        assert session.scalar(select(func.count()).where(t.Job.subject_id == world.training)) == 0
        assert session.scalar(select(func.count()).select_from(t.JobLog).where(t.JobLog.message == "m")) == 0
    assert purge(world.settings, world.engine) == []


def test_what_a_kept_run_refers_to_stays_until_that_goes_too(world):
    delete_long_ago(world.engine, [world.other])  # the training uses its expert set, the comparison the analysis
    assert purge(world.settings, world.engine) == []
    assert world.api.get(f"/expert-sets/{world.chosen}")["id"] == world.chosen
    delete_long_ago(world.engine, [world.comparison])
    assert purge(world.settings, world.engine) == [world.comparison]
    delete_long_ago(world.engine, [world.training])
    *gone, last = purge(world.settings, world.engine)  # with the analysis its parts: statistics, context, expert sets
    assert (set(gone), last) == ({world.training, world.statistics, world.context}, world.other)
    world.api.get(f"/expert-sets/{world.chosen}", 404)


def test_a_deleted_prompt_set_goes_after_the_window_with_its_prompts_unless_an_analysis_uses_it(world):
    fresh = world.api.dataset(3, name="another")["id"]
    path = path_of("prompt set", fresh)
    world.api.call("DELETE", path, 204)
    assert purge(world.settings, world.engine) == []
    assert world.api.post(f"{path}/undelete")["deleted_at"] is None
    delete_long_ago(world.engine, [fresh, world.dataset])
    assert purge(world.settings, world.engine) == [fresh]
    world.api.post(f"{path}/undelete", 404)


def test_a_study_keeps_its_runs_and_the_set_and_analysis_under_them(world):
    runs = [run["id"] for run in world.api.get(f"/studies/{world.study}")["runs"]]
    delete_long_ago(world.engine, [*runs, world.base])
    assert purge(world.settings, world.engine) == []
    delete_long_ago(world.engine, [world.study])
    assert set(purge(world.settings, world.engine)) == {world.study, *runs}  # a training and a comparison use the base
    delete_long_ago(world.engine, [world.training, world.comparison])
    assert set(purge(world.settings, world.engine)) == {world.training, world.comparison, world.base}


def test_no_work_starts_on_a_deleted_training_or_its_model_or_a_deleted_analysis_set(world):
    run = next(r for r in world.api.get(f"/studies/{world.study}")["runs"] if r["role"] == "training")["id"]
    world.api.call("DELETE", path_of("training", run), 204)
    body = {"dataset_id": world.dataset, "model": f"training:{run}"}
    assert "undelete it first" in world.api.post("/analyses", 409, json=body)["detail"]
    world.api.call("DELETE", path_of("analysis", world.other), 204)
    body = {"analysis_id": world.base, "expert_set_id": world.chosen}
    assert "undelete it first" in world.api.post("/trainings", 409, json=body)["detail"]
    body = {"dataset_id": world.dataset, "model": "tiny", "expert_set_id": world.chosen, "holdout": False}
    assert "undelete it first" in world.api.post("/evaluations", 409, json=body)["detail"]


@contextmanager
def copied(world: SimpleNamespace, folder: Path) -> Iterator[tuple[Settings, Engine]]:
    """A copy of the world to be broken."""
    shutil.copytree(world.home, folder)
    settings = Settings(home=folder, token=TOKEN)
    engine = make_engine(settings.tables_url)
    try:
        yield settings, engine
    finally:
        engine.dispose()
        shutil.rmtree(folder)


def check_whole(settings: Settings, engine: Engine, world: SimpleNamespace) -> None:
    """Everything that a stored run names is stored. What foreign keys promise, the database checks itself."""
    with reading(engine) as session:
        stored = {id_ for table in t.RUNS.values() for id_ in session.scalars(select(table.id))}
        stored |= set(session.scalars(select(t.Dataset.id)))
        named = {id_ for sides in session.execute(select(t.Comparison.side_a, t.Comparison.side_b)) for id_ in sides}
        named |= set(session.scalars(select(t.StudyRun.run_id)))
        asked = [*session.scalars(select(t.Analysis.model_id)), *session.scalars(select(t.EvaluationArm.model_id))]
        models = set(session.scalars(select(t.Model.id))) - {"tiny"}
        named |= {id_.removeprefix("training:") for id_ in {*asked, *models} - {"tiny"}}
        named |= {params["plan_of"] for params in session.scalars(select(t.Analysis.params)) if params["plan_of"]}
        if session.get(t.ExpertSet, world.chosen) is not None:
            named.add(world.statistics)  # its rule went by them
    assert named <= stored
    assert set(asked) <= models | {"tiny"}
    assert (settings.artifacts_path / "trainings" / world.training).exists() == (world.training in stored)


def keep_only(world: SimpleNamespace, folder: Path, kept: set[str]) -> None:
    """Delete everything but these, and purge: what is left is whole, and nothing more can go."""
    with copied(world, folder) as (settings, engine):
        with writing(engine) as session:
            session.execute(update(t.Statistics).values(sha256="5" * 64))
            chosen = update(t.ExpertSet).where(t.ExpertSet.id == world.chosen)
            session.execute(chosen.values(rule={"statistics": "5" * 64}))
        before = rows(engine)
        delete_long_ago(engine, before.keys() - kept)
        gone = set(purge(settings, engine))
        assert gone <= before.keys() - kept | {world.statistics, world.context}  # parts, which go with their analysis
        assert rows(engine) == {id_: n for id_, n in before.items() if id_ not in gone}
        check_whole(settings, engine, world)
        assert purge(settings, engine) == []


def test_each_run_alone_keeps_all_that_it_stands_on(world, tmp_path):
    of_the_study = {run["role"]: run["id"] for run in world.api.get(f"/studies/{world.study}")["runs"]}
    alone = [of_the_study[role] for role in ("analysis", "evaluation")]
    alone += [world.study, world.training, world.comparison]
    for id_ in alone:
        keep_only(world, tmp_path / "copy", {id_})


@given(data=st.data())
@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_deleted_a_kept_run_loses_nothing(world, tmp_path, data):
    keep_only(world, tmp_path / "copy", data.draw(st.sets(st.sampled_from(sorted(rows(world.engine))))))


def test_when_everything_has_gone_only_models_and_what_metrics_sum_is_left(world):
    delete_long_ago(world.engine, rows(world.engine))
    assert len(purge(world.settings, world.engine)) == 17 + 7 + 1
    with reading(world.engine) as session:
        counts = {at.name: session.scalar(select(func.count()).select_from(at)) for at in t.Base.metadata.sorted_tables}
        assert list(session.scalars(select(t.Model.id))) == ["tiny"]
        assert set(session.scalars(select(t.JobLog.job_id))) <= {"job_0"}  # no job: playing.py's name
    assert {name for name, n in counts.items() if n} <= {"models", "tallies", "job_logs"}


def test_a_purge_killed_at_any_point_is_finished_by_the_next(world, tmp_path, monkeypatch):
    doomed = {world.other, world.training, world.comparison, world.context, world.statistics}
    real, killed = purging.writing, 0
    for point in range(0, 60, 4):
        with copied(world, tmp_path / "copy") as (settings, engine):
            delete_long_ago(engine, doomed)
            kept = {id_: n for id_, n in rows(engine).items() if id_ not in doomed}
            calls = iter(range(1000))

            def until_killed(engine: Engine, calls: Iterator[int] = calls, point: int = point):
                if next(calls) == point:
                    raise Stopped
                return real(engine)

            with monkeypatch.context() as patched, suppress(Stopped):
                patched.setattr(purging, "writing", until_killed)
                patched.setattr(retention, "writing", until_killed)
                purge(settings, engine)
            killed += not doomed.isdisjoint(rows(engine))
            purge(settings, engine)
            assert rows(engine) == kept
            assert not any((settings.artifacts_path / "trainings").iterdir())
            with reading(engine) as session:
                assert session.get(t.ExpertSet, world.chosen) is None
        if killed <= point // 4:
            break  # this one ran to its end
    assert 5 < killed < 15


def test_a_run_whose_removal_was_cut_off_is_found_by_nobody(world):
    delete_long_ago(world.engine, [world.training])
    assert purge(world.settings, world.engine, stopped=lambda: True) == []
    path = path_of("training", world.training)
    assert world.training not in [one["id"] for one in world.api.get("/trainings?deleted=true")["items"]]
    for method, where in (("GET", path), ("POST", f"{path}/undelete"), ("DELETE", path), ("POST", f"{path}/verify")):
        world.api.call(method, where, 404)
    assert purge(world.settings, world.engine) == [world.training]


def test_a_folder_in_which_a_process_still_trains_waits_for_the_next_purge_with_what_the_run_stands_on(world):
    doomed = {world.training, world.statistics, world.comparison, world.context, world.other}
    delete_long_ago(world.engine, doomed)
    with FileLock(world.folder / ".lock"):
        assert world.comparison in purge(world.settings, world.engine)
    assert world.folder.is_dir()
    left = doomed & rows(world.engine).keys()
    assert {world.training, world.other} <= left
    assert set(purge(world.settings, world.engine)) == left
    assert not world.folder.exists()


def test_a_folder_that_cannot_be_removed_stops_no_other_removal(world, monkeypatch):
    fresh = world.api.dataset(3, name="another")["id"]
    delete_long_ago(world.engine, [world.training, fresh])
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda folder: Path("/nowhere").stat())
        assert purge(world.settings, world.engine) == [fresh]
    assert purge(world.settings, world.engine) == [world.training]


def test_what_was_deleted_before_a_backup_can_be_restored_from_it_for_the_whole_time(world, tmp_path):
    delete_long_ago(world.engine, [world.training, world.dataset])
    backup(world.settings, tmp_path / "all.tar")
    assert purge(world.settings, world.engine) == [world.training]
    restored = Settings(home=tmp_path / "restored", token=TOKEN)
    restore(restored, tmp_path / "all.tar")
    engine = make_engine(restored.tables_url)
    assert purge(restored, engine) == []
    with writing(engine) as session:
        assert runs.restore(session, t.Training, world.training).deleted_at is None
        assert session.get_one(t.Analysis, world.base).deleted_at is None
    engine.dispose()


def test_the_backend_removes_by_itself_what_was_deleted_before_the_window(world):
    delete_long_ago(world.engine, [world.training])
    with reading(world.engine) as session:
        jobs = list(session.scalars(select(t.Job.id).where(t.Job.subject_id == world.training)))
        others = list(session.scalars(select(t.Job.id).where(t.Job.subject_id == world.context)))
    app = create_app(world.settings)
    with TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        queue = app.state.edge.queue
        until = time.monotonic() + 30
        while client.get(f"/api/v1/trainings/{world.training}").status_code != 404 and time.monotonic() < until:
            time.sleep(0.05)
        app.state.edge.children.join()
        assert (len(jobs), queue.states(jobs)) == (1, {})
        assert len(queue.states(others)) == 1
    assert not world.folder.exists()
    assert world.training not in rows(world.engine)


def test_the_command_says_what_would_go_and_then_the_disk_has_the_room(world, monkeypatch):
    with writing(world.engine) as session:
        big = session.scalar(select(t.Evaluation.id))
        many = {"arm_idx": 0, "prompt_idx": 0, "n_tokens": 1, "ended": True}
        session.add(t.EvaluationAnswer(evaluation_id=big, n=99_999, text="x" * 5_000_000, **many))
    runs = [run["id"] for run in world.api.get(f"/studies/{world.study}")["runs"]]
    for kind, id_ in [("study", world.study), ("training", world.training)]:
        world.api.call("DELETE", path_of(kind, id_), 204)
    with writing(world.engine) as session:
        for table in t.RUNS.values():
            session.execute(update(table).where(table.id.in_(runs)).values(deleted_at=t.utcnow()))
    monkeypatch.setenv("ROUTEPRINT_HOME", str(world.settings.home))
    monkeypatch.setenv("ROUTEPRINT_PORT", "1")  # nobody listens there
    get_settings.cache_clear()
    file = sqlite_path(world.settings.tables_url)

    def run(*words: str) -> str:
        answer = CliRunner().invoke(commands, ["purge", *words])
        assert answer.exit_code == 0, answer.output
        return " ".join(answer.output.split())

    assert "0 would go" in run("--dry-run")
    before = rows(world.engine)
    said = run("--now", "--dry-run")
    assert "19 would go" in said
    assert "100.0 kB of files" in said
    assert f"evaluation {big}" in said
    assert rows(world.engine) == before
    world.engine.dispose()
    with world.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    size = file.stat().st_size
    said = run("--now")
    get_settings.cache_clear()
    assert "19 removed" in said
    assert "given back to the disk" in said
    assert size - file.stat().st_size > 5_000_000
    assert set(rows(world.engine)) == set(before) - {*runs, world.study, world.training}


def test_every_way_in_which_a_run_can_refer_to_another_is_looked_at():
    heads = {table.__table__ for table in (*t.KEPT.values(), t.ExpertSet)}
    for table in heads:
        for key in table.foreign_keys:
            assert key.column.table not in heads or key.parent.name in purging.NAMING
    own = {column.key for table in heads for column in inspect(table).columns}
    assert set(purging.NAMING) <= own
