"""The whole chain, recomputed from stored rows. Nothing here trusts a stored digest: each is computed again."""

from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.provenance import Link
from backend.store import checks_analysis as a
from backend.store import checks_training as tr
from backend.store import tables as t
from backend.store.checks import link


def verify_analysis(session: Session, analysis_id: str) -> list[Link]:
    """Check every link of an analysis. Raises NotFound; a broken link is returned, not raised."""
    analysis = session.get(t.Analysis, analysis_id)
    if analysis is None:
        raise NotFound("analysis", analysis_id)
    return [
        link("prompt set: every row and the whole set match their SHA-256", a.check_rows(session, analysis)),
        link("plan: follows from the prompt set and the settings", a.check_plan(session, analysis)),
        link("batches: hold exactly the planned samples in order", a.check_batches(session, analysis)),
        link("prompts: the token ids match their digests", a.check_prompts(session, analysis)),
        link("routing: counts of every sample sum to top-k x tokens", a.check_routing(session, analysis)),
        link("risk_diff: follows from the counts, and the sums over batches agree", a.check_risk(session, analysis)),
    ]


def verify_training(session: Session, training_id: str) -> list[Link]:
    """Check every link of a training, those of its analysis first."""
    training = session.get(t.Training, training_id)
    if training is None:
        raise NotFound("training", training_id)
    analysis = session.get_one(t.Analysis, training.analysis_id)
    return [
        *verify_analysis(session, training.analysis_id),
        link("expert set: matches its SHA-256", tr.check_expert_set(session, training, analysis)),
        link("targets: belong to the analysed samples and match their digest", tr.check_targets(session, training)),
        link("steps: each saw exactly its analysis batch", tr.check_steps(session, training, analysis)),
        link("epochs: each visits every batch once", tr.check_epochs(session, training, analysis)),
        link("weights: every file matches the manifest", tr.check_weights(training)),
    ]
