"""What a report of a study is made from, read out of the tables. Not covered: what it says (domain/report/study.py)."""

from importlib.metadata import version

from sqlalchemy.orm import Session

from backend.domain.errors import Conflict
from backend.domain.report.study_tables import StudyFacts
from backend.store import tables as t

_PROMPTS = ("id", "name", "sha256", "n_safe", "n_unsafe")


def gather(session: Session, study: t.Study) -> StudyFacts:
    """Return everything that the report of a study says. Raises Conflict while there is nothing to report."""
    if not study.result:
        raise Conflict(f"The study {study.name!r} is {study.status}: its report is written once it has succeeded.")
    analysis = session.get_one(t.Analysis, study.analysis_id)
    chosen = session.get_one(t.ExpertSet, study.expert_set_id)
    first = session.get(t.Training, study.result["runs"][0]["ids"]["training"])
    prompts, asked = (
        {name: getattr(session.get_one(t.Dataset, id_), name) for name in _PROMPTS}
        for id_ in (analysis.dataset_id, study.params["evaluation"]["dataset_id"])
    )
    return StudyFacts(
        version=version("routeprint"),
        id=study.id,
        name=study.name,
        finished_at=study.finished_at,
        sha256=study.sha256,
        params=study.params,
        result=study.result,
        analysis={
            "id": analysis.id,
            "name": analysis.name,
            "plan_digest": analysis.plan_digest,
            "plan": analysis.plan_summary,
            "params": analysis.params,
        },
        prompts=prompts,
        asked=asked,
        model={"id": analysis.model_id, "digests": analysis.model_digests},
        experts={"id": chosen.id, "name": chosen.name, "sha256": chosen.sha256, "experts": chosen.experts},
        environment=first.environment if first else {},
    )
