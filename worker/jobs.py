"""The workflows that the queue runs: thin, deterministic, durable. All work happens in steps; all state in the store.

A step may run twice (a worker died in it, or the database went away). That is harmless, because every write is
idempotent: the second run finds what the first one stored and goes on from there. A cancelled workflow leaves by an
exception that is no Exception, so it never reaches the handlers below: whoever cancels has written the final status
already.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from dbos import DBOS, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend import logs
from backend.domain.errors import NotFound
from backend.domain.jobs import PRIORITY, QUEUE_GPU, QUEUE_OF_ENGINE, RUN_ANALYSIS, RUN_SCAN, RUN_STAGE, WORKFLOWS
from backend.settings import get_settings
from backend.store import fleet, statistics, writes
from backend.store import tables as t
from backend.store.engine import PATIENCE_SECONDS, insist, is_full, reading, shared_engine
from worker import fence
from worker.child import DatabaseAway, StagePaused, run_child
from worker.space import no_space
from worker.windows import shards

log = logging.getLogger("routeprint.worker")

T = TypeVar("T")

DEATHS = 3
"""Work whose worker died this often without having got any further is parked as failed: it may be what kills them."""
HANDED_ON = 1000
"""How often a workflow is taken up again by the queue; what it does in between is counted by us."""
_PAUSE_SECONDS = 2.0

_gpu_slot = asyncio.Lock()
"""One stage at a time loads a model here, from whichever queue it came."""


def look(work: Callable[[Session], T]) -> T:
    """Read from the tables, waiting for a database that is away."""
    return insist(shared_engine(get_settings().tables_url), work, reading)


def write(work: Callable[[Session], T]) -> T:
    """Write to the tables in one transaction, waiting for a database that is away; `work` may run twice.

    A disk that is full is waited for as well: how a job ended must not be lost for it.
    """
    begun = time.monotonic()
    while True:
        try:
            return insist(shared_engine(get_settings().tables_url), work)
        except OperationalError as error:
            if not is_full(error) or time.monotonic() - begun > PATIENCE_SECONDS:
                raise
            log.error("%s", no_space(get_settings()))
        time.sleep(_PAUSE_SECONDS)


def _queue_of(analysis_id: str) -> str:
    """Return the queue whose workers have the analysis' engine. An analysis never changes it, so this needs no step."""
    return QUEUE_OF_ENGINE[look(lambda session: session.get_one(t.Analysis, analysis_id)).engine]


def _job(job_id: str) -> t.Job:
    """Return a job for its kind and its priority. A job never changes them, so this needs no step."""
    return look(lambda session: session.get_one(t.Job, job_id))


def _executor() -> str:
    return DBOS.executor_id


def _log(job_id: str, message: str, level: str = "info") -> None:
    write(partial(writes.log, job_id=job_id, message=message, level=level))


def begin(session: Session, table: type[t.Run], id_: str, job_id: str) -> bool:
    """Note that this worker works on a job; False if it was cancelled, or what it is about is not wanted any more."""
    if not writes.start_job(session, job_id, _executor()):
        return False
    writes.log(session, job_id, f"started on {_executor()}")
    log.info("job begun", extra=logs.facts(subject_id=id_))
    return writes.start(session, table, id_)


@DBOS.step()
async def begin_analysis(job_id: str, analysis_id: str) -> list[list[int]]:
    """Set the analysis to running and return its shards as [first batch, stop]. Empty if it was cancelled."""

    def note(session: Session) -> list[list[int]]:
        if not begin(session, t.Analysis, analysis_id, job_id):
            return []
        analysis = session.get(t.Analysis, analysis_id)
        if analysis is None:
            raise NotFound("analysis", analysis_id)
        n_batches = analysis.plan_summary["n_batches"]
        writes.set_stage(session, t.Analysis, analysis_id, stage="measuring routing", total=n_batches)
        n_workers = sum(analysis.engine in worker.engines for worker in fleet.alive(session))
        return [list(shard) for shard in shards(n_batches, max(1, n_workers))]

    return write(note)


def _begun(session: Session, work: str, mark: str, token: str) -> None:
    """Count how often this work was begun without having got further since. Raises RuntimeError when it is enough."""
    times = fleet.begun(session, work, mark, token)
    if times > DEATHS:
        raise RuntimeError(
            f"Given up: its worker died {DEATHS} times in a row before anything more was done. Its machine may have "
            "run out of memory; the worker's log tells more. Resume to try again."
        )


@DBOS.step(preemptible=True)
async def measure(job_id: str, analysis_id: str, first: int, stop: int) -> int:
    """Measure the batches [first, stop) that are not stored yet, in a child process."""
    work, token = f"{job_id} {first}", t.new_id("turn")

    def note(session: Session) -> None:
        stored = writes.measured_batches(session, analysis_id, first, stop)
        _begun(session, work, str(len(stored)), token)
        writes.log(session, job_id, f"{_executor()} takes batches {first} to {stop - 1}")

    async with _gpu_slot:
        write(note)
        inside = fence.arguments(work, token)
        done = int(await _child(job_id, *inside, "measure", analysis_id, str(first), str(stop), job_id))
    write(partial(fleet.over, work=work, token=token))
    return done


@DBOS.step(preemptible=True)
async def do_stage(job_id: str, kind: str, id_: str) -> Any:
    """Do the one stage of a run in a child process: `python -m worker.engine KIND ID JOB`."""
    token = t.new_id("turn")

    def note(session: Session) -> bool:
        if not begin(session, t.RUNS[kind], id_, job_id):
            return False
        run = session.get_one(t.RUNS[kind], id_)
        _begun(session, job_id, f"{run.stage} {run.done}", token)
        return True

    async with _gpu_slot if WORKFLOWS[kind][1] == QUEUE_GPU else nullcontext():
        if not write(note):
            return None
        found = await _child(job_id, *fence.arguments(job_id, token), kind, id_, job_id)
    write(partial(fleet.over, work=job_id, token=token))
    return found


@DBOS.step(preemptible=True)
async def scan(job_id: str) -> int:
    """Look through the models folder, store what is there, and return how many models that is."""
    write(partial(writes.start_job, job_id=job_id, executor_id=_executor()))
    return int((await _child(job_id, "scan"))["models"])


async def _child(job_id: str, *args: str) -> Any:
    """Errors leave a step as plain RuntimeError: the queue stores them, and anyone must be able to read them."""
    while True:
        try:
            return await run_child(*args, on_line=lambda line: _log(job_id, line, "output"))
        except StagePaused:  # the worker ends: the step is not over, and whoever takes the workflow does it again
            await asyncio.Event().wait()
        except DatabaseAway as error:
            log.warning(
                "%s for %s goes on when the database is back: %s", " ".join(args), job_id, str(error).split("\n")[0]
            )
            await asyncio.sleep(_PAUSE_SECONDS)
        except RuntimeError as error:
            raise RuntimeError(str(error)) from None


@DBOS.step()
async def end(job_id: str, kind: str, id_: str, status: str, error: str | None = None) -> list[list[str]]:
    """Write the final status of a job and of what it worked on, and the jobs that follow: (job, kind, subject)."""

    def finish(session: Session) -> list[list[str]]:
        ended = writes.finish_all(session, job_id, kind, id_, status, error)
        log.info("job over", extra=logs.facts(kind=kind, subject_id=id_, status=status))
        if not ended or kind != "analysis" or status != "succeeded":
            return []
        return [[job.id, job.kind, job.subject_id] for job in statistics.request_defaults(session, id_)]

    return write(finish)


async def _follow(following: list[list[str]] | None) -> None:
    """Queue what follows at once. A job that is lost here is a queued job all the same: the API's sweep submits it."""
    for job_id, kind, subject_id in following or []:
        queue = WORKFLOWS[kind][1]
        with SetWorkflowID(job_id), SetEnqueueOptions(priority=PRIORITY):
            await DBOS.enqueue_workflow_async(queue, run_stage, job_id, subject_id)


@DBOS.workflow(name="measure_shard", max_recovery_attempts=HANDED_ON)
async def measure_shard(job_id: str, analysis_id: str, first: int, stop: int) -> int:
    """One shard of an analysis, on one GPU slot."""
    logs.bind(job_id=job_id)
    return await measure(job_id, analysis_id, first, stop)


@DBOS.workflow(name=RUN_ANALYSIS, max_recovery_attempts=HANDED_ON)
async def run_analysis(job_id: str, analysis_id: str) -> None:
    """Hand the shards of an analysis to the GPU queue and wait for all of them."""
    logs.bind(job_id=job_id)
    try:
        handles = []
        batches = await begin_analysis(job_id, analysis_id)
        queue, priority = _queue_of(analysis_id), _job(job_id).priority
        for number, (first, stop) in enumerate(batches):
            with SetWorkflowID(f"{job_id}-shard-{number}"), SetEnqueueOptions(priority=priority):
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


@DBOS.workflow(name=RUN_STAGE, max_recovery_attempts=HANDED_ON)
async def run_stage(job_id: str, id_: str) -> None:
    """A run of one stage, in the slot of its queue: a training, statistics, ..."""
    logs.bind(job_id=job_id)
    kind = _job(job_id).kind
    try:
        await do_stage(job_id, kind, id_)
        await end(job_id, kind, id_, "succeeded")
    except Exception as error:
        await end(job_id, kind, id_, "failed", words(error))
        raise RuntimeError(words(error)) from None


@DBOS.workflow(name=RUN_SCAN, max_recovery_attempts=DEATHS)
async def run_scan(job_id: str, _subject_id: str) -> None:
    """Scan the models folder."""
    logs.bind(job_id=job_id)
    try:
        await scan(job_id)
        await end(job_id, "scan", "", "succeeded")
    except Exception as error:
        await end(job_id, "scan", "", "failed", words(error))
        raise RuntimeError(words(error)) from None


def words(error: Exception) -> str:
    """Return what an error says, or its name if it says nothing."""
    if isinstance(error, OperationalError) and is_full(error):  # the queue's own, on the same disk
        return no_space(get_settings())
    return str(error) or type(error).__name__
