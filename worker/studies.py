"""The workflow of a study: it makes runs, queues them and waits for them, wave by wave. All work happens in the runs.

It waits in a queue of its own (`studies`), so that no number of waiting studies takes the slots of the analyses they
wait for. The first run that fails or is cancelled stops the study, which names it and cancels the others; a resumed
study goes on with what is there. Not covered: what came out (studying.py).
"""

from dataclasses import astuple
from functools import partial

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, WorkflowHandleAsync
from sqlalchemy.orm import Session

from backend import logs
from backend.domain.errors import RouteprintError
from backend.domain.jobs import PRIORITY, RUN_STUDY
from backend.domain.study.outcomes import WAVES
from backend.store import studies, writes
from backend.store import tables as t
from worker.jobs import begin, do_stage, end, run_analysis, run_stage, words, write

_RESTARTS = 100
"""A study only waits: workers that come and go while it does are no sign that it kills them."""
_WAVE_WORDS = ("trainings, causal check", "measuring trained models", "comparing")

Due = tuple[int, str, str, str, str]
"""n, job, kind, run, queue."""


@DBOS.step()
async def begin_wave(job_id: str, study_id: str, wave: int) -> list[Due] | None:
    """Make and queue the runs of a wave; return those to wait for. None if the study is not wanted any more."""

    def note(session: Session) -> list[Due] | None:
        if not begin(session, t.Study, study_id, job_id):
            return None
        stage = f"wave {wave + 1} of {len(WAVES)}: {_WAVE_WORDS[wave]}"
        writes.set_stage(session, t.Study, study_id, stage=stage)
        since = session.get_one(t.Job, job_id).created_at
        found = studies.begin_wave(session, session.get_one(t.Study, study_id), wave, since)
        writes.log(session, job_id, f"{_WAVE_WORDS[wave]}: waiting for {len(found)} runs")
        return [astuple(due) for due in found]

    try:
        return write(note)
    except RouteprintError as error:
        raise RuntimeError(str(error)) from None


@DBOS.step()
async def settle(study_id: str, n: int, job_id: str) -> str:
    """Look at a run whose job ended; return the job that goes on with it, or "". Raises RuntimeError if it failed."""
    failed: list[str] = []

    def note(session: Session) -> str:
        try:
            return studies.settle(session, session.get_one(t.Study, study_id), n, job_id)
        except RouteprintError as error:  # what it wrote before stays
            failed.append(str(error))
            return ""

    next_job = write(note)
    if failed:
        raise RuntimeError(failed[-1])
    return next_job


@DBOS.step()
async def stop(study_id: str) -> list[str]:
    """Cancel what still runs; return the jobs for the queue."""
    return write(partial(studies.stop, study_id=study_id))


async def _queue(due: Due) -> None:
    _, job_id, kind, run_id, queue = due
    workflow = run_analysis if kind == "analysis" else run_stage
    with SetWorkflowID(job_id), SetEnqueueOptions(priority=PRIORITY):
        await DBOS.enqueue_workflow_async(queue, workflow, job_id, run_id)


async def _wait(study_id: str, due: Due) -> None:
    """Wait until a run has succeeded, also if somebody cancelled and resumed it. Raises RuntimeError if it did not."""
    job_id = due[1]
    while job_id:
        handle: WorkflowHandleAsync[object] = await DBOS.retrieve_workflow_async(job_id, existing_workflow=False)
        try:
            await handle.get_result()
        except Exception as error:  # how it ended stands in the tables
            DBOS.logger.debug("a run of %s ended: %s", study_id, error)
        job_id = await settle(study_id, due[0], job_id)


@DBOS.workflow(name=RUN_STUDY, max_recovery_attempts=_RESTARTS)
async def run_study(job_id: str, study_id: str) -> None:
    """Run a study to its end, from wherever it was left."""
    logs.bind(job_id=job_id)
    try:
        for wave in range(len(WAVES)):
            found = await begin_wave(job_id, study_id, wave)
            if found is None:
                return
            for due in found:
                await _queue(due)
            for due in found:
                await _wait(study_id, due)
        await do_stage(job_id, "study", study_id)
        await end(job_id, "study", study_id, "succeeded")
    except Exception as error:
        for waiting in await stop(study_id):
            await DBOS.cancel_workflow_async(waiting, cancel_children=True)
        await end(job_id, "study", study_id, "failed", words(error))
        raise RuntimeError(words(error)) from None
