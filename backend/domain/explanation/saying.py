"""What an explanation allows to be said, in sentences that a page, an API answer and a report share."""

from backend.domain.explanation.explain import ALPHA, Explanation, Figure, Verdict
from backend.domain.explanation.features import BY_KEY
from backend.domain.explanation.outliers import FEWEST

_OUTCOMES = {
    "fall": "The fall of a batch is its loss at its first visit less its loss at its last, over the complete epochs. A "
    "loss is recorded before its step's update: the first is the model's before it learned from the batch (but after "
    "it learned from the batches before it), and the loss after the last update is not known.",
    "loss": "One epoch is complete, so no batch was visited twice and there is no fall. Looked at instead is the loss "
    "at the first visit, before the model learned from the batch: which batches were hard, not which did well.",
}
_TAKEN_OUT = {"fall": "first loss and place in the run foretell", "loss": "place in the run foretells"}
_TO_COME = (
    "Once every batch was visited, the loss at the first visit is looked at: which batches were hard. Once every batch "
    "was visited twice, it is the fall from the first visit to the last: which did well."
)
_MEAN = (
    "A batch that starts with a high loss falls further by itself, and what makes a first loss high goes with the fall "
    "for that reason alone (regression to the mean). So the first loss and the steps of both visits are taken out "
    "before anything is called a relation."
)
_NOT_A_CAUSE = (
    "A relation is not a cause: features go together, and batches were not dealt to be strong or weak in one. To see "
    "whether a feature matters, train on batches that differ in it alone."
)


def method(found: Explanation) -> list[str]:
    """Return what was looked at and how, and what it does not say."""
    if not found.n_complete:
        return [_TO_COME]
    return [_OUTCOMES[found.outcome], *([_MEAN] if found.outcome == "fall" else []), _NOT_A_CAUSE]


def findings(found: Explanation) -> list[str]:
    """Return what may be said of a run, or why nothing may."""
    if found.reason:
        return [found.reason]
    of_kind = {verdict: [f for f in found.figures if f.verdict is verdict] for verdict in Verdict}
    said = [_finding(figure, found.outcome) for figure in of_kind[Verdict.BEYOND]]
    if not of_kind[Verdict.BEYOND]:
        said.append(
            f"No feature goes with the {found.outcome} beyond what is taken out. That is no proof that none does: "
            f"among {len(found.batches)} batches only strong relations show."
        )
    if of_kind[Verdict.GONE]:
        names = ", ".join(BY_KEY[figure.key].name for figure in of_kind[Verdict.GONE])
        said.append(f"Only until that is taken out, and therefore no finding: {names}.")
    return [*said, _unusual(found)]


def _finding(figure: Figure, outcome: str) -> str:
    way = "more" if figure.rho_beyond > 0 else "less"
    did = f"fell {way}" if outcome == "fall" else f"had {way} loss"
    return (
        f"Batches with more of “{BY_KEY[figure.key].name}” {did} than their {_TAKEN_OUT[outcome]} (rank correlation "
        f"{figure.rho_beyond:+.2f}, p over all features {figure.p_family_beyond:.2g})."
    )


def _unusual(found: Explanation) -> str:
    assert found.rests is not None
    if len(found.batches) < FEWEST:
        return f"Among fewer than {FEWEST} batches none is called unusual: any fit would follow each of them."
    named = found.batches[found.rests.unusual].tolist()
    if not named:
        return f"No batch is far from what its {_TAKEN_OUT[found.outcome]}."
    shown = ", ".join(map(str, named[:10])) + (", …" if len(named) > 10 else "")
    return f"Far from what its {_TAKEN_OUT[found.outcome]}: batch {shown}. This is a rule, not a test."


VERDICTS = {
    Verdict.BEYOND: f"goes with it beyond the controls (p over all features at most {ALPHA:g})",
    Verdict.GONE: "goes with it only until the controls are taken out: no finding",
    Verdict.NONE: "nothing shown, which is no proof of nothing",
    Verdict.CONTROL: "control: taken out of the others",
    Verdict.CONSTANT: "the same in every batch",
    Verdict.ALIASED: "cannot be told from the controls",
    Verdict.ABSENT: "not known of enough batches",
}
"""What each verdict means."""
