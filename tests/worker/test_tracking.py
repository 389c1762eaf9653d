"""Experiment trackers, read back: every step once, with the figures of its record, and nothing else of the run."""

import json
from pathlib import Path

import pytest

from backend.domain.errors import InvalidInput
from backend.settings import Settings, get_settings
from backend.store import tables as t
from tests.worker.study import Study
from tests.worker.test_card import ORIGIN
from tests.worker.tiny import TEXTS, save_tiny
from tests.worker.tiny_runs import ListSink, tiny_run
from worker import tracking as tracking_module
from worker.tracking import Tracking, check_tools, figures, trackers_there
from worker.training import train
from worker.tuning import run_training
from worker.wandb_file import wandb_rows

TOOLS = ("tensorboard", "mlflow", "wandb")
SECRET = "user:hunter2"


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """One MLflow store for this file: making one takes its library seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'store.sqlite3'}"


def tracking(folder: Path, store: str, run_id: str = "tr_1", tools=TOOLS, history=()) -> Tracking:
    return Tracking(
        tools=tools,
        run_id=run_id,
        name="first try",
        told={"learning_rate": 0.01, "dataset_sha256": "1" * 64, "micro_batch_size": None},
        tensorboard_dir=folder / "board" / run_id,
        mlflow_uri=store,
        mlflow_artifacts=(folder / "files").as_uri(),
        mlflow_experiment="routeprint",
        wandb_dir=folder,
        wandb_mode="offline",
        wandb_project="routeprint",
        history=history,
    )


def from_tensorboard(folder: Path, run_id: str) -> dict[int, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "board" / run_id), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    rows: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            assert tag not in rows.setdefault(event.step, {}), f"step {event.step} twice"
            rows[event.step][tag.removeprefix("train/")] = event.value
    return rows


def from_mlflow(store: str, run_id: str) -> dict[int, dict[str, float]]:
    import mlflow

    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("routeprint").experiment_id], f"tags.`routeprint.training` = '{run_id}'"
    )
    rows: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            assert name not in rows.setdefault(metric.step, {}), f"step {metric.step} twice"
            rows[metric.step][name] = metric.value
    return rows


def from_wandb(folder: Path, run_id: str) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for part in sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        for row in wandb_rows(part):
            named = {name.removeprefix("train/"): value for name, value in row.items()}
            step = int(named.pop("global_step"))
            assert step not in rows, f"step {step} twice"
            rows[step] = named
    return rows


def read_back(folder: Path, store: str, run_id: str = "tr_1") -> dict[str, dict[int, dict[str, float]]]:
    return {
        "tensorboard": from_tensorboard(folder, run_id),
        "mlflow": from_mlflow(store, run_id),
        "wandb": from_wandb(folder, run_id),
    }


def expected(*sinks: ListSink) -> dict[int, dict[str, float]]:
    return {record.step: figures(record) for sink in sinks for record in sink.records}


def everything_written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_every_step_is_told_once_to_all_three_also_after_a_stop_and_after_a_loss(olmoe, store, tmp_path):
    first, second = ListSink(stop_after=5), ListSink()
    train(tiny_run(olmoe, tmp_path / "run"), first, tracking(tmp_path, store))
    told = read_back(tmp_path, store)
    for tool in TOOLS:
        assert told[tool].keys() == {1, 2, 3, 4, 5}, tool
    for part in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        part.write_bytes(part.read_bytes()[:400])  # what a killed process had not written yet
    history = [(record.step, figures(record)) for record in first.records]
    train(tiny_run(olmoe, tmp_path / "run"), second, tracking(tmp_path, store, history=history))
    told, recorded = read_back(tmp_path, store), expected(first, second)
    assert set(recorded) == set(range(1, 9))
    assert set(recorded[1]) == set(tracking_module._FIGURES)
    for tool in TOOLS:
        assert told[tool].keys() == recorded.keys(), tool
        for step, row in recorded.items():
            assert told[tool][step] == pytest.approx(row, rel=1e-6), (tool, step)


def test_a_step_trained_again_after_a_crash_is_not_told_again(olmoe, store, tmp_path):
    class PowerCut(Exception):
        pass

    class Cut(ListSink):
        def should_stop(self):
            if self.records[-1].step == 5:  # checkpoints are at 3 and 6: steps 4 and 5 are trained again
                raise PowerCut
            return False

    first, second = Cut(), ListSink()
    with pytest.raises(PowerCut):
        train(tiny_run(olmoe, tmp_path / "run"), first, tracking(tmp_path, store, "tr_2"))
    result = train(tiny_run(olmoe, tmp_path / "run"), second, tracking(tmp_path, store, "tr_2"))
    assert result.resumed_from == 3
    for tool, rows in read_back(tmp_path, store, "tr_2").items():
        assert rows.keys() == set(range(1, 9)), tool


def test_what_is_told_holds_no_prompt_no_answer_and_no_path(olmoe, store, tmp_path):
    train(tiny_run(olmoe, tmp_path / "run", epochs=1), ListSink(), tracking(tmp_path, store, "tr_3"))
    for place in ("board", "wandb"):
        content = everything_written(tmp_path / place)
        assert b"1" * 64 in content  # it is not empty: the digests are there
        for text in (*TEXTS, "I can't.", str(olmoe)):
            assert text.encode() not in content, text
    assert str(tmp_path).encode() not in everything_written(tmp_path / "board")
    (part,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"j\x0arouteprint" in part.read_bytes()  # the field of the machine's name
    assert str(tmp_path).encode() not in part.read_bytes()


def test_a_tracker_that_fails_is_noted_once_and_the_training_goes_on(olmoe, store, tmp_path):
    (tmp_path / "board").write_text("in the way")
    sink = ListSink()
    result = train(tiny_run(olmoe, tmp_path / "run", epochs=1), sink, tracking(tmp_path, store, "tr_4"))
    assert result.n_steps == 4
    ((kind, text),) = sink.notes
    assert kind == "tracking"
    assert text.startswith("tensorboard failed (")
    assert text.endswith("the training went on without it")
    assert from_wandb(tmp_path, "tr_4").keys() == {1, 2, 3, 4}


def test_a_server_that_cannot_be_reached_is_noted_without_the_password_of_its_address(olmoe, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for address in (f"http://{SECRET}@127.0.0.1:9/flow", "http://127.0.0.1:9/flow?token=hunter2"):
        sink = ListSink()
        told = tracking(tmp_path / "logs", address, "tr_6", tools=("mlflow",))
        train(tiny_run(olmoe, tmp_path / str(len(address)), epochs=1), sink, told)
        ((kind, text),) = sink.notes
        assert (kind, text.startswith("mlflow failed (")) == ("tracking", True)
        assert "127.0.0.1" in text
        assert "hunter2" not in text


def test_tracking_changes_nothing_about_the_training(olmoe, store, tmp_path):
    plain, tracked = ListSink(), ListSink()
    one = train(tiny_run(olmoe, tmp_path / "one", epochs=1), plain)
    two = train(tiny_run(olmoe, tmp_path / "two", epochs=1), tracked, tracking(tmp_path, store, "tr_5"))
    assert one.manifest_sha256 == two.manifest_sha256


def settings(monkeypatch, **environment: str) -> Settings:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TENSORBOARD_LOGGING_DIR", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_what_cannot_be_used_is_refused_by_name(monkeypatch):
    usual = settings(monkeypatch)
    check_tools(TOOLS, usual)
    assert set(trackers_there()) == set(TOOLS)
    monkeypatch.setattr(tracking_module, "trackers_there", lambda: {"tensorboard": "2"})
    with pytest.raises(InvalidInput, match=r"report_to names mlflow, which is not installed on this worker.*tracking"):
        check_tools(["tensorboard", "mlflow"], usual)
    monkeypatch.undo()
    with pytest.raises(InvalidInput, match="there are tensorboard, mlflow, wandb"):
        check_tools(["comet"], usual)
    with pytest.raises(InvalidInput, match="WANDB_MODE of this worker is online, but it has no WANDB_API_KEY"):
        check_tools(["wandb"], settings(monkeypatch, WANDB_MODE="online"))
    with pytest.raises(InvalidInput, match="'shared': use offline or online"):
        check_tools(["wandb"], settings(monkeypatch, WANDB_MODE="shared"))
    check_tools(["mlflow"], settings(monkeypatch, WANDB_MODE="online"))


@pytest.fixture
def study(study: Study, tmp_path, monkeypatch) -> Study:
    settings(monkeypatch, TENSORBOARD_LOGGING_DIR=str(tmp_path / "boards"))
    get_settings.cache_clear()
    return study


def test_a_stored_training_reports_with_two_processes_too_and_says_where(study: Study, tmp_path):
    analysis = study.analyse()
    wanted = {"report_to": ["tensorboard", "wandb"], "epochs": 1}
    training = study.submit_training(analysis, study.choose(analysis), n_processes=2, **wanted)
    run_training(training, "job")
    steps = study.rows(t.TrainingStep, training_id=training)
    own = tmp_path / "artifacts" / "trainings" / training / "tracking"
    assert study.get(t.Training, training).result["tracking"] == {
        "tensorboard": str(tmp_path / "boards" / training),
        "wandb": str(own),
    }
    (tmp_path / "board").symlink_to(tmp_path / "boards")
    for rows in (
        from_tensorboard(tmp_path, training),
        from_wandb(own, training),
    ):  # each step once: one process reports
        assert rows.keys() == {step.step for step in steps} == {1, 2, 3}
        for step in steps:
            assert rows[step.step] == pytest.approx(figures(step), rel=1e-6)
    assert study.get(t.Training, training).result["model_id"] == f"training:{training}"
    assert "notes" not in study.get(t.Training, training).result


def test_an_address_is_shown_without_its_password(tmp_path):
    shown = tracking(tmp_path, f"https://{SECRET}@host:5000/flow?token=hunter2").places
    assert shown["mlflow"] == "https://host:5000/flow"
    assert "hunter2" not in json.dumps(shown)
    assert tracking(tmp_path, "sqlite:////data/x.sqlite3").places["mlflow"] == "sqlite:////data/x.sqlite3"


def test_what_trackers_are_told_of_a_run_are_its_settings_ids_and_digests(olmoe, tmp_path):
    told = tracking_module._told(tiny_run(olmoe, tmp_path, origin=ORIGIN))
    assert told["dataset_sha256"] == ORIGIN.dataset_sha256
    assert told["learning_rate"] == 1e-2
    assert {type(value) for value in told.values()} <= {str, int, float, bool, type(None)}
    assert ORIGIN.dataset_name not in told.values()
    assert str(tmp_path) not in json.dumps(told)
