"""The whole chain, recomputed from stored rows. Nothing here trusts a stored digest: each is computed again."""

from sqlalchemy.orm import Session

from backend.domain.provenance import Link
from backend.store import checks_analysis as a
from backend.store import checks_experts as e
from backend.store import checks_statistics as st
from backend.store import checks_training as tr
from backend.store import runs
from backend.store import tables as t
from backend.store.checks import link


def verify_analysis(session: Session, analysis_id: str) -> list[Link]:
    """Check every link of an analysis. Raises NotFound; a broken link is returned, not raised."""
    analysis = runs.get(session, t.Analysis, analysis_id)
    return [
        link("prompt set: every row and the whole set match their SHA-256", a.check_rows(session, analysis)),
        link("plan: follows from the prompt set and the settings", a.check_plan(session, analysis)),
        link("batches: hold exactly the planned samples in order", a.check_batches(session, analysis)),
        link("prompts: the token ids match their digests", a.check_prompts(session, analysis)),
        link("routing: counts of every sample sum to top-k x tokens", a.check_routing(session, analysis)),
        link("risk_diff: follows from the counts, and the sums over batches agree", a.check_risk(session, analysis)),
        *_statistics(session, analysis),
    ]


def _statistics(session: Session, analysis: t.Analysis) -> list[Link]:
    """One link where there are statistics: a link that checks nothing says nothing."""
    found = link("statistics: stand on the stored counts", st.check_statistics(session, analysis))
    return [found] if found.checked or not found.ok else []


def verify_statistics(session: Session, statistics_id: str) -> list[Link]:
    """Check the analysis of these statistics, and that they stand on its counts."""
    stored = runs.get(session, t.Statistics, statistics_id)
    analysis = session.get_one(t.Analysis, stored.analysis_id)
    own = link(f"{stored.id}: stand on the stored counts", st.check_statistics(session, analysis, stored.id))
    return [*verify_analysis(session, stored.analysis_id), own]


def verify_training(session: Session, training_id: str) -> list[Link]:
    """Check every link of a training, those of its analysis first."""
    training = runs.get(session, t.Training, training_id)
    analysis = session.get_one(t.Analysis, training.analysis_id)
    steps, epochs = _promises(training)
    return [
        *verify_analysis(session, training.analysis_id),
        link("expert set: matches its SHA-256, and its rule", e.check_expert_set(session, training, analysis)),
        link("targets: belong to the analysed samples and match their digest", tr.check_targets(session, training)),
        link(steps, tr.check_steps(session, training, analysis)),
        link(epochs, tr.check_epochs(session, training, analysis)),
        link("weights: every file matches the manifest", tr.check_weights(training)),
    ]


def _promises(training: t.Training) -> tuple[str, str]:
    """Return what a run says of its steps and of its epochs: one that mixed its samples kept no batch."""
    if training.params.get("preserve_batches", True):
        return "steps: each saw exactly its analysis batch", "epochs: each visits every batch once"
    return "steps: each saw samples of the analysis (batches were not kept)", "epochs: each visits every sample once"
