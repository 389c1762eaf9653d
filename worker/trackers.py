"""Experiment trackers: the stock trainer's own integrations, each told every step exactly once.

What a tracker is told: the run's settings, ids and digests once, and per step the figures of `figures`. No prompt, no
token, no path. A step that it holds already is not told again, and steps that were recorded but never reached it (a
killed process keeps what it had not written yet) are handed in first: a resumed run is one run without gaps or doubles.
A tracker that fails is noted and left out from then on; the training goes on. Not covered: which ones are wanted, and
where they write (tracking.py).
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback

from worker.monitoring import BatchMonitoringTrainer
from worker.tracking import Tracking, figures
from worker.wandb_file import wandb_steps

_TAG = "routeprint.training"


class StepTracker(TrainerCallback):
    """What the three have in common. on_trouble: called once, with what went wrong, if a tracker fails."""

    tool = ""

    def __init__(self, tracking: Tracking, on_trouble: Callable[[str], None]) -> None:
        super().__init__()
        self.tracking, self.on_trouble = tracking, on_trouble
        self.reported: set[int] = set()
        self.off = False

    def open(self) -> None:
        """Begin the run, or go on with it."""

    def read_back(self) -> set[int]:
        """Return the steps that the tracker holds already."""
        return set()

    def end(self, outcome: str) -> None:
        """End the run. outcome: finished, stopped or failed."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run, then hand in what was recorded before and never got there."""

        def begin() -> None:
            self.open()
            self.reported = self.read_back()
            for step, told in self.tracking.history:
                self._hand(args, control, step, told)

        self._try(begin)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Hand on the figures of a step; the stock trainer's own summary of a run is none."""
        if "grad_norm" in (logs or ()):
            self._try(lambda: self._hand(args, control, state.global_step, logs))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do nothing: checkpoints stay where they are."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do nothing: `close` knows how the run ended."""

    def close(self, outcome: str) -> None:
        """End the run; nothing is told after that."""
        self._try(lambda: self.end(outcome))
        self.off = True

    def _hand(self, args: Any, control: Any, step: int, told: Mapping[str, float]) -> None:
        if step in self.reported:
            return
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        super().on_log(args, state, control, logs=dict(told))  # type: ignore[arg-type]  # the stock integration's
        self.reported.add(step)

    def _try(self, work: Callable[[], None]) -> None:
        if self.off:
            return
        try:
            work()
        except Exception as error:
            self.off = True
            why = f"{type(error).__name__}: {self.tracking.without_secrets(str(error))}"
            self.on_trouble(f"{self.tool} failed ({why}); the training went on without it")


class Board(StepTracker, TensorBoardCallback):
    """TensorBoard event files, one folder per run."""

    tool = "tensorboard"

    def open(self) -> None:
        """Read what is there, then append a file of our own."""
        place = self.tracking.tensorboard_dir
        self._there = _board_steps(place)
        self.tb_writer = self._SummaryWriter(log_dir=str(place))
        if not self._there:
            rows = "".join(f"| {name} | {value} |\n" for name, value in self.tracking.told.items())
            self.tb_writer.add_text("run", f"| what | value |\n| --- | --- |\n{rows}")

    def read_back(self) -> set[int]:
        """Return the steps of all event files of this run."""
        return self._there

    def end(self, outcome: str) -> None:
        """Close the file."""
        if self.tb_writer is not None:
            self.tb_writer.close()


def _board_steps(folder: Path) -> set[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return set()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {e.step for e in events.Scalars("train/loss")} if "train/loss" in events.Tags()["scalars"] else set()


class Mlflow(StepTracker, MLflowCallback):  # type: ignore[misc]  # it names its arguments otherwise
    """A run of an MLflow store, found again by its tag."""

    tool = "mlflow"

    def open(self) -> None:
        """Go on with the run that bears our tag, or make one."""
        flow, told = self._ml_flow, self.tracking
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own use of its libraries
            flow.set_tracking_uri(told.mlflow_uri)
            if flow.get_experiment_by_name(told.mlflow_experiment) is None:
                flow.create_experiment(told.mlflow_experiment, artifact_location=told.mlflow_artifacts)
            flow.set_experiment(told.mlflow_experiment)
            wanted = f"tags.`{_TAG}` = '{told.run_id}'"
            found = flow.search_runs(filter_string=wanted, output_format="list", max_results=1)
            if found:
                run = flow.start_run(run_id=found[0].info.run_id)
            else:
                tags = {_TAG: told.run_id, "mlflow.source.name": "routeprint", "mlflow.user": "routeprint"}
                run = flow.start_run(run_name=told.name, tags=tags)
                flow.log_params(told.told)
        self._id = run.info.run_id
        self._initialized, self._async_log = True, True

    def read_back(self) -> set[int]:
        """Return the steps of the run's loss."""
        return {metric.step for metric in self._ml_flow.MlflowClient().get_metric_history(self._id, "loss")}

    def end(self, outcome: str) -> None:
        """Wait until everything is stored, then end the run."""
        self._ml_flow.flush_async_logging()
        self._ml_flow.end_run({"finished": "FINISHED", "stopped": "KILLED"}.get(outcome, "FAILED"))


class Wandb(StepTracker, WandbCallback):  # type: ignore[misc]  # it names its arguments otherwise
    """A run of Weights & Biases, offline unless the worker's owner says otherwise; all its parts bear the run's id."""

    tool = "wandb"

    def open(self) -> None:
        """Read the parts that are there, then begin another one."""
        told = self.tracking
        told.wandb_dir.mkdir(parents=True, exist_ok=True)
        self._there = wandb_steps(told.wandb_dir, told.run_id)
        settings = self._wandb.Settings(
            console="off", silent=True, host="routeprint", disable_code=True, disable_git=True,
            disable_job_creation=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            x_save_requirements=False,
        )  # fmt: skip
        self._wandb.init(
            project=told.wandb_project,
            id=told.run_id,
            name=told.name,
            dir=str(told.wandb_dir),
            mode=told.wandb_mode,
            resume="allow" if told.wandb_mode == "online" else None,
            config=dict(told.told),
            settings=settings,
        )
        self._wandb.define_metric("train/global_step")
        self._wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
        self._initialized = True

    def read_back(self) -> set[int]:
        """Return the steps of all parts of this run."""
        return self._there

    def end(self, outcome: str) -> None:
        """Write everything down and end the run."""
        self._wandb.finish(exit_code=0 if outcome != "failed" else 1)


TRACKERS: dict[str, type[StepTracker]] = {"tensorboard": Board, "mlflow": Mlflow, "wandb": Wandb}


def _quiet_environment() -> None:
    """Keep the libraries from reporting to their makers, from filling the job's log, and from waiting for long.

    Before they are imported.
    """
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("WANDB_ERROR_REPORTING", "false"),
        ("DO_NOT_TRACK", "true"),
    ):
        os.environ[name] = value
    # Else a server that is away holds the training up for minutes before it goes on without.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


@contextmanager
def reported(trainer: BatchMonitoringTrainer, tracking: Tracking | None) -> Iterator[None]:
    """Report every step of the training inside to the wanted trackers; they are told how it ended.

    The stock trainer's own logging is off (`logging_strategy="no"`): the loss that it would log is a mean over what
    each process saw. What is handed to its integrations, as a log of one step, is what the record of the run holds.
    """
    if tracking is None:
        yield
        return
    _quiet_environment()
    trackers = [TRACKERS[tool](tracking, lambda text: trainer.on_note("tracking", text)) for tool in tracking.tools]
    for tracker in trackers:
        trainer.add_callback(tracker)
    record_first = trainer.on_step

    def record_and_report(record: Any) -> None:
        record_first(record)
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, figures(record))

    trainer.on_step = record_and_report
    outcome = "failed"
    try:
        yield
        outcome = "finished" if trainer.state.global_step >= trainer.state.max_steps else "stopped"
    finally:
        for tracker in trackers:
            tracker.close(outcome)
