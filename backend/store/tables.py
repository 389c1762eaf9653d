"""Every table of the product in one namespace: `from backend.store import tables as t`. They are defined in schema/."""

from backend.store.schema.analyses import (
    Analysis,
    AnalysisAggregate,
    AnalysisBatch,
    AnalysisPlan,
    Answer,
    BatchRouting,
    BatchSample,
)
from backend.store.schema.base import Base, Kept, Run, new_id, utcnow
from backend.store.schema.evaluations import (
    Evaluation,
    EvaluationAnswer,
    EvaluationArm,
    EvaluationOverrule,
    EvaluationPrompt,
)
from backend.store.schema.findings import (
    Comparison,
    Context,
    ContextExpert,
    ContextSite,
    ContextTokens,
    ExpertSet,
    Statistics,
)
from backend.store.schema.inputs import Dataset, Model, PromptRow, RiskTable
from backend.store.schema.trainings import Study, StudyRun, Training, TrainingExample, TrainingStep
from backend.store.schema.work import Attempt, IdempotencyKey, Job, JobLog, Tally, Worker

__all__ = [
    "KEPT",
    "RUNS",
    "Analysis",
    "AnalysisAggregate",
    "AnalysisBatch",
    "AnalysisPlan",
    "Answer",
    "Attempt",
    "Base",
    "BatchRouting",
    "BatchSample",
    "Comparison",
    "Context",
    "ContextExpert",
    "ContextSite",
    "ContextTokens",
    "Dataset",
    "Evaluation",
    "EvaluationAnswer",
    "EvaluationArm",
    "EvaluationOverrule",
    "EvaluationPrompt",
    "ExpertSet",
    "IdempotencyKey",
    "Job",
    "JobLog",
    "Kept",
    "Model",
    "PromptRow",
    "RiskTable",
    "Run",
    "Statistics",
    "Study",
    "StudyRun",
    "Tally",
    "Training",
    "TrainingExample",
    "TrainingStep",
    "Worker",
    "new_id",
    "utcnow",
]

RUNS: dict[str, type[Run]] = {
    "analysis": Analysis,
    "training": Training,
    "statistics": Statistics,
    "evaluation": Evaluation,
    "comparison": Comparison,
    "context": Context,
    "study": Study,
}
"""Kind of job -> what it works on. A kind is also the noun for one such thing."""

KEPT: dict[str, type[Kept]] = {**RUNS, "prompt set": Dataset}
"""Noun -> what people list, tag, delete and bring back."""
