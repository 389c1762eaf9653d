"""The workflows that the queue runs: thin, deterministic, durable. All work happens in steps; all state in the store.

A step may run twice (a worker died in it). That is harmless, because every write is idempotent: the second run finds
what the first one stored and goes on from there. A cancelled workflow leaves by an exception that is no Exception, so
it never reaches the handlers below: whoever cancels has written the final status already.
"""

import asyncio
from contextlib import nullcontext
from typing import Any

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.jobs import PRIORITY, QUEUE_GPU, QUEUE_OF_ENGINE, RUN_ANALYSIS, RUN_SCAN, RUN_STAGE, WORKFLOWS
from backend.settings import get_settings
from backend.store import statistics, writes
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing
from worker.child import run_child
from worker.windows import shards

DEATHS = 3
"""A job whose worker died this often is parked as failed."""

_gpu_slot = asyncio.Lock()
"""One stage at a time loads a model here, from whichever queue it came."""


def _engine() -> Any:
    return shared_engine(get_settings().tables_url)


def _queue_of(analysis_id: str) -> str:
    """Return the queue whose workers have the analysis' engine. An analysis never changes it, so this needs no step."""
    with reading(_engine()) as session:
        return QUEUE_OF_ENGINE[session.get_one(t.Analysis, analysis_id).engine]


def _kind_of(job_id: str) -> str:
    """Return a job's kind. A job never changes it, so this needs no step."""
    with reading(_engine()) as session:
        return session.get_one(t.Job, job_id).kind


def _executor() -> str:
    return DBOS.executor_id


def _log(job_id: str, message: str, level: str = "info") -> None:
    with writing(_engine()) as session:
        writes.log(session, job_id, message, level)


def begin(session: Session, table: type[t.Run], id_: str, job_id: str) -> bool:
    """Note that this worker works on a job; False if it was cancelled, or what it is about is not wanted any more."""
    if not writes.start_job(session, job_id, _executor()):
        return False
    writes.log(session, job_id, f"started on {_executor()}")
    return writes.start(session, table, id_)


@DBOS.step()
async def begin_analysis(job_id: str, analysis_id: str) -> list[list[int]]:
    """Set the analysis to running and return its shards as [first batch, stop]. Empty if it was cancelled."""
    with writing(_engine()) as session:
        if not begin(session, t.Analysis, analysis_id, job_id):
            return []
        analysis = session.get(t.Analysis, analysis_id)
        if analysis is None:
            raise NotFound("analysis", analysis_id)
        writes.set_stage(
            session, t.Analysis, analysis_id, stage="measuring routing", total=analysis.plan_summary["n_batches"]
        )
        return [list(shard) for shard in shards(analysis.plan_summary["n_batches"])]


@DBOS.step(preemptible=True)
async def measure(job_id: str, analysis_id: str, first: int, stop: int) -> int:
    """Measure the batches [first, stop) that are not stored yet, in a child process."""
    async with _gpu_slot:
        return int(await _child(job_id, "measure", analysis_id, str(first), str(stop), job_id))


@DBOS.step(preemptible=True)
async def do_stage(job_id: str, kind: str, id_: str) -> Any:
    """Do the one stage of a run in a child process: `python -m worker.engine KIND ID JOB`."""
    with writing(_engine()) as session:
        if not begin(session, t.RUNS[kind], id_, job_id):
            return None
    async with _gpu_slot if WORKFLOWS[kind][1] == QUEUE_GPU else nullcontext():
        return await _child(job_id, kind, id_, job_id)


@DBOS.step(preemptible=True)
async def scan(job_id: str) -> int:
    """Look through the models folder, store what is there, and return how many models that is."""
    with writing(_engine()) as session:
        writes.start_job(session, job_id, _executor())
    return int((await _child(job_id, "scan"))["models"])


async def _child(job_id: str, *args: str) -> Any:
    """Errors leave a step as plain RuntimeError: the queue stores them, and anyone must be able to read them."""
    try:
        return await run_child(*args, on_line=lambda line: _log(job_id, line, "output"))
    except RuntimeError as error:
        raise RuntimeError(str(error)) from None


@DBOS.step()
async def end(job_id: str, kind: str, id_: str, status: str, error: str | None = None) -> list[list[str]]:
    """Write the final status of a job and of what it worked on, and the jobs that follow: (job, kind, subject)."""
    with writing(_engine()) as session:
        ended = writes.finish_all(session, job_id, kind, id_, status, error)
        if not ended or kind != "analysis" or status != "succeeded":
            return []
        return [[job.id, job.kind, job.subject_id] for job in statistics.request_defaults(session, id_)]


async def _follow(following: list[list[str]] | None) -> None:
    """Queue what follows at once. A job that is lost here is a queued job all the same: the API's sweep submits it."""
    for job_id, kind, subject_id in following or []:
        queue = WORKFLOWS[kind][1]
        with SetWorkflowID(job_id), SetEnqueueOptions(priority=PRIORITY):
            await DBOS.enqueue_workflow_async(queue, run_stage, job_id, subject_id)


@DBOS.workflow(name="measure_shard", max_recovery_attempts=DEATHS)
async def measure_shard(job_id: str, analysis_id: str, first: int, stop: int) -> int:
    """One shard of an analysis, on one GPU slot."""
    return await measure(job_id, analysis_id, first, stop)


@DBOS.workflow(name=RUN_ANALYSIS, max_recovery_attempts=DEATHS)
async def run_analysis(job_id: str, analysis_id: str) -> None:
    """Hand the shards of an analysis to the GPU queue and wait for all of them."""
    try:
        handles = []
        batches = await begin_analysis(job_id, analysis_id)
        queue = _queue_of(analysis_id)
        for number, (first, stop) in enumerate(batches):
            with SetWorkflowID(f"{job_id}-shard-{number}"):
                handles.append(
                    await DBOS.enqueue_workflow_async(queue, measure_shard, job_id, analysis_id, first, stop)
                )
        for handle in handles:
            await handle.get_result()
        following = await end(job_id, "analysis", analysis_id, "succeeded")
    except Exception as error:
        await end(job_id, "analysis", analysis_id, "failed", words(error))
        raise RuntimeError(words(error)) from None
    await _follow(following)


@DBOS.workflow(name=RUN_STAGE, max_recovery_attempts=DEATHS)
async def run_stage(job_id: str, id_: str) -> None:
    """A run of one stage, in the slot of its queue: a training, statistics, ..."""
    kind = _kind_of(job_id)
    try:
        await do_stage(job_id, kind, id_)
        await end(job_id, kind, id_, "succeeded")
    except Exception as error:
        await end(job_id, kind, id_, "failed", words(error))
        raise RuntimeError(words(error)) from None


@DBOS.workflow(name=RUN_SCAN, max_recovery_attempts=DEATHS)
async def run_scan(job_id: str, _subject_id: str) -> None:
    """Scan the models folder."""
    try:
        await scan(job_id)
        await end(job_id, "scan", "", "succeeded")
    except Exception as error:
        await end(job_id, "scan", "", "failed", words(error))
        raise RuntimeError(words(error)) from None


def words(error: Exception) -> str:
    """Return what an error says, or its name if it says nothing."""
    return str(error) or type(error).__name__
