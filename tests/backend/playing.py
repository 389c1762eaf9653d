"""What a worker does for a study, without a worker: its runs are filled with made-up figures, wave by wave."""

from collections.abc import Mapping

import numpy as np
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from backend.domain.study.outcomes import WAVES
from backend.domain.vocabulary import Site
from backend.store import plans, studies, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from backend.store.studies import Due
from tests.backend import seeding
from worker.studying import compute


def begin(engine: Engine, study_id: str, wave: int) -> list[Due]:
    """Start the study if need be, and make the runs of a wave."""
    with writing(engine) as session:
        writes.start(session, t.Study, study_id)
        job = studies._newest_job(session, study_id)
        assert job is not None
        return studies.begin_wave(session, session.get_one(t.Study, study_id), wave, job.created_at)


def finish(engine: Engine, due: Due) -> None:
    """Do what one run asks for."""
    with reading(engine) as session:
        run = session.get_one(t.RUNS[due.kind], due.run_id)
        noted = session.query(t.StudyRun).filter_by(run_id=due.run_id).one()
    number = 100 * (noted.arm == "shuffled") + (noted.seed or 0)
    if isinstance(run, t.Training):
        with reading(engine) as session:
            plan = plans.load(session, run.analysis_id)
        seeding.train(engine, run.id, plan)
        with writing(engine) as session:
            _shuffle_losses(session, run, number)
            environment = {"device": "cpu", "host": "secret-host", "threads": 1, "versions": {"torch": "2.13.0"}}
            session.get_one(t.Training, run.id).environment = environment
        sites = _sites(engine, run.analysis_id)
        seeding.add_model(engine, f"training:{run.id}", sites, weights_digest=f"{number:064d}")
    elif isinstance(run, t.Analysis):
        seeding.measure(engine, run.id, seed=1 + number)
    else:
        seeding.evaluate(engine, run.id)
    with writing(engine) as session:
        writes.finish_job(session, due.job_id, "succeeded")


def _sites(engine: Engine, analysis_id: str) -> tuple[Site, ...]:
    with reading(engine) as session:
        return tuple(Site.from_dict(site) for site in session.get_one(t.Analysis, analysis_id).sites)


def _shuffle_losses(session: Session, training: t.Training, number: int) -> None:
    """Give every run its own losses; without preserved batches a step belongs to none."""
    rng = np.random.default_rng(number)
    for step in session.query(t.TrainingStep).filter_by(training_id=training.id):
        step.samples = [sample | {"loss": float(1 + rng.normal(0, 0.1))} for sample in step.samples]
        if not training.params["preserve_batches"]:
            step.batch_idx = step.batch_id = step.verified = None


def play(engine: Engine, study_id: str, jobs: Mapping[str, str] | None = None, *, waves: int = len(WAVES)) -> None:
    """Play the first waves; after all of them, conclude and finish the study."""
    for wave in range(waves):
        for due in begin(engine, study_id, wave):
            finish(engine, due)
            with writing(engine) as session:
                assert studies.settle(session, session.get_one(t.Study, study_id), due.n, due.job_id) == ""
    if waves < len(WAVES):
        return
    compute(engine, study_id, "job_0")
    with writing(engine) as session:
        writes.finish(session, t.Study, study_id, "succeeded")
        session.execute(update(t.Job).where(t.Job.subject_id == study_id).values(status="succeeded"))
