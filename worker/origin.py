"""Where a training comes from, as frozen values: what a model card states and what experiment trackers are told.

Not covered: the run's own settings (runs.py), and proving any of it (backend/store/verify.py).
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.store import tables as t


@dataclass(frozen=True, slots=True)
class Origin:
    """The stored things a training stands on. Names are what users typed; everything else is an id or a SHA-256.

    label_meaning, targets: of safe and of unsafe prompts. base_digests: config, weights, tokenizer, template (None: no
    chat template). expert_set: (id, name, SHA-256, how it was chosen), None where there is none.
    """

    training_id: str
    training_name: str
    analysis_id: str
    plan_digest: str
    dataset_id: str
    dataset_name: str
    dataset_sha256: str
    label_meaning: tuple[str, str]
    base_model: str
    base_digests: tuple[tuple[str, str | None], ...]
    target_digest: str | None
    targets: tuple[str, str]
    expert_set: tuple[str, str, str, str] | None

    def ids(self) -> dict[str, str]:
        """Return every id and digest by name: nothing that a user typed."""
        own = {
            "training": self.training_id,
            "analysis": self.analysis_id,
            "plan_sha256": self.plan_digest,
            "dataset": self.dataset_id,
            "dataset_sha256": self.dataset_sha256,
            "base_weights_sha256": dict(self.base_digests).get("weights"),
            "targets_sha256": self.target_digest,
        }
        if self.expert_set is not None:
            own |= {"expert_set": self.expert_set[0], "expert_set_sha256": self.expert_set[2]}
        return {name: value for name, value in own.items() if value is not None}


def origin_of(session: Session, training_id: str) -> Origin:
    """Return where a stored training comes from."""
    training = session.get_one(t.Training, training_id)
    analysis = session.get_one(t.Analysis, training.analysis_id)
    dataset = session.get_one(t.Dataset, analysis.dataset_id)
    digests: dict[str, Any] = analysis.model_digests
    chosen = None
    if training.expert_set_id:
        found = session.get_one(t.ExpertSet, training.expert_set_id)
        chosen = found.id, found.name, found.sha256, str(found.rule.get("method", "unknown"))
    return Origin(
        training_id=training.id,
        training_name=training.name,
        analysis_id=analysis.id,
        plan_digest=analysis.plan_digest,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        dataset_sha256=dataset.sha256,
        label_meaning=(str(dataset.label_meaning["safe"]), str(dataset.label_meaning["unsafe"])),
        base_model=analysis.model_id,
        base_digests=tuple((name, digests.get(name)) for name in ("config", "weights", "tokenizer", "template")),
        target_digest=training.target_digest,
        targets=(str(training.params["targets"]["safe"]), str(training.params["targets"]["unsafe"])),
        expert_set=chosen,
    )
