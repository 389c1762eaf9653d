"""Names that both ends of the queue must agree on. Bump APP_VERSION only when the order of workflow steps changes."""

APP_NAME = "routeprint"
APP_VERSION = "jobs-2"
PRIORITY = 100
"""Every job carries a priority: the queue runs jobs without one before the most urgent."""

QUEUE_CONTROL = "control"
"""Workflows that only wait and hand out work; never holds a GPU."""
QUEUE_GPU = "gpu"
"""One slot per worker process: whatever loads a model runs here."""
QUEUE_VLLM = "gpu-vllm"
"""Shards that only a worker with vLLM takes; they share its one slot."""
QUEUE_CPU = "cpu"
"""Stages that need no GPU and must not wait for one: statistics, imports. Two at a time per worker."""
QUEUE_OF_ENGINE = {"transformers": QUEUE_GPU, "vllm": QUEUE_VLLM}
QUEUE_STUDIES = "studies"
"""Runs that wait for other runs, analyses among them. A queue of their own: waiting in `control`, enough of them would
take every slot that the analyses they wait for need."""
QUEUES = (QUEUE_CONTROL, QUEUE_STUDIES, QUEUE_CPU, *QUEUE_OF_ENGINE.values())

RUN_ANALYSIS = "run_analysis"
RUN_STAGE = "run_stage"
"""A run that is one stage: its kind names the stage of worker/engine.py, its queue says where it may run."""
RUN_SCAN = "run_scan"
RUN_STUDY = "run_study"
WORKFLOWS = {
    "analysis": (RUN_ANALYSIS, QUEUE_CONTROL),
    "training": (RUN_STAGE, QUEUE_GPU),
    "statistics": (RUN_STAGE, QUEUE_CPU),
    "evaluation": (RUN_STAGE, QUEUE_GPU),
    "comparison": (RUN_STAGE, QUEUE_CPU),
    "context": (RUN_STAGE, QUEUE_GPU),
    "study": (RUN_STUDY, QUEUE_STUDIES),
    "scan": (RUN_SCAN, QUEUE_CONTROL),
}
"""Kind of job -> (workflow, queue). Every workflow takes (job_id, subject_id)."""


def queue_for(kind: str, engine: str | None = None) -> str:
    """Return the queue of a job: what loads a model waits where workers have the engine that it needs (None: any)."""
    queue = WORKFLOWS[kind][1]
    return QUEUE_OF_ENGINE[engine] if engine is not None and queue == QUEUE_GPU else queue


ACTIVE = ("queued", "running")
FINISHED = ("succeeded", "failed", "cancelled")
HEARTBEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 15.0
"""A worker whose heartbeat is older than this is taken for dead."""
