"""The stage `study`: puts side by side what the runs of a study came to. No model, no torch."""

from sqlalchemy import Engine

from backend.domain.errors import NotFound
from backend.settings import get_settings
from backend.store import study_results, writes
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing


def conclude(study_id: str, job_id: str) -> int:
    """Compute and store the result of a study in this process's database; return how many runs it stands on."""
    return compute(shared_engine(get_settings().tables_url), study_id, job_id)


def compute(engine: Engine, study_id: str, job_id: str) -> int:
    """Compute and store the result. Raises NotFound, and Conflict where a run is missing."""
    with reading(engine) as session:
        study = session.get(t.Study, study_id)
        if study is None:
            raise NotFound("study", study_id)
        result = study_results.compute(session, study)
    with writing(engine) as session:
        if study_results.record(session, study_id, result):
            writes.log(session, job_id, result["verdicts"][0]["text"])
    return len(result["runs"])
