"""Expert sets: choosing (layer, expert) pairs by a rule, their masks, identities and exchange format.

An expert is named by the model's own layer number. Where one layer holds two MoE sites, a pair means that expert of
both: it is chosen if either site's figure is, and masked in both. Not covered: significance (statistics), training.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.canonical import digest
from backend.domain.errors import RuleInvalid
from backend.domain.rules import SelectionRule, check_exist, sorted_experts
from backend.domain.vocabulary import Expert, Site

__all__ = [
    "Expert",
    "SelectionRule",
    "Site",
    "agreeing_p",
    "expert_mask",
    "expert_set_digest",
    "from_esft",
    "per_layer_counts",
    "select",
    "to_esft",
]


def select(
    risk_diff: NDArray[Any], sites: Sequence[Site], rule: SelectionRule, p: NDArray[Any] | None = None
) -> tuple[Expert, ...]:
    """Return the experts that the rule chooses, sorted by (layer, expert).

    risk_diff: [site, expert] in the rule's pool and scope; NaN (not measured) is never chosen, nor is zero. Equal
    values go to the lower (layer, expert). Fewer than k come back where fewer have the direction's sign.
    p: [site, expert], for `significant` alone: the figure it goes by, NaN where there is none (`agreeing_p`).
    Raises RuleInvalid.
    """
    rule.validate(sites)
    if rule.method == "manual":
        return rule.experts
    if rule.alpha is not None:
        if p is None:
            raise ValueError("method 'significant' needs the p-values of the statistics")
        risk_diff = np.where(np.asarray(p) <= rule.alpha, risk_diff, 0)
    layers, scores = _scores(np.asarray(risk_diff), sites, rule.direction)
    if rule.threshold is not None:
        chosen = scores > rule.threshold
    elif rule.alpha is not None:
        chosen = scores > 0
    elif rule.share is not None:
        chosen = _fewest(scores, rule.share)
    else:
        chosen = _largest(scores if rule.method == "top_k_per_layer" else scores.reshape(1, -1), rule.k or 0)
    row, expert = np.nonzero(chosen.reshape(scores.shape) & (scores > 0))
    return tuple(zip(layers[row].tolist(), expert.tolist(), strict=True))


def _scores(
    risk_diff: NDArray[Any], sites: Sequence[Site], direction: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the layers in order, and per [layer, expert] how strongly it speaks for the direction; 0: not at all."""
    if risk_diff.shape != (len(sites), max(site.n_experts for site in sites)):
        raise ValueError(f"risk_diff has shape {risk_diff.shape}, which is not that of {len(sites)} MoE sites")
    values = np.where(np.isfinite(risk_diff) & _exists(sites), risk_diff, 0).astype(np.float64)
    towards = {"unsafe": values, "safe": -values, "both": np.abs(values)}[direction]
    layers, row = np.unique([site.layer for site in sites], return_inverse=True)
    scores = np.zeros((len(layers), values.shape[1]))
    np.maximum.at(scores, row, towards)
    return layers, scores


def agreeing_p(p: NDArray[Any], difference: NDArray[Any], risk_diff: NDArray[Any]) -> NDArray[np.float64]:
    """Return p, NaN where the tested difference points the other way than risk_diff.

    What is tested is adjusted for groups and strata; where that turns the sign, neither speaks for the expert.
    """
    return np.where(np.sign(difference) == np.sign(risk_diff), p, np.nan)


def _fewest(scores: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Mark the fewest that together reach a share of the sum of all, the largest first; the earlier wins a tie."""
    best_first = np.argsort(-scores, axis=None, kind="stable")
    sums = np.cumsum(scores.ravel()[best_first])
    n = int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12))) + 1  # what adding rounds off is no missing part
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[best_first[:n]] = True
    return chosen


def _largest(scores: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    """Mark the k largest of each row; the earlier wins a tie."""
    best_first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, best_first, True, axis=1)
    return chosen


def expert_mask(experts: Iterable[Expert], sites: Sequence[Site]) -> NDArray[np.bool_]:
    """Return [site, expert]: whether the set holds it. Raises RuleInvalid for an expert the model does not have."""
    wanted = sorted_experts(experts)
    check_exist(wanted, sites)
    mask = np.zeros((len(sites), max(site.n_experts for site in sites)), dtype=bool)
    for row, site in enumerate(sites):
        mask[row, [expert for layer, expert in wanted if layer == site.layer]] = True
    return mask & _exists(sites)


def per_layer_counts(experts: Iterable[Expert], sites: Sequence[Site]) -> list[dict[str, int]]:
    """Return {"layer", "n"} for every MoE layer in order: how many experts of it are in the set."""
    layers = [layer for layer, _ in experts]
    return [{"layer": layer, "n": layers.count(layer)} for layer in sorted({site.layer for site in sites})]


def expert_set_digest(
    plan_digest: str,
    rule: SelectionRule | Mapping[str, Any],
    experts: Iterable[Sequence[int]],
    per_batch: Mapping[str, Iterable[Sequence[int]]] | None = None,
) -> str:
    """Return the identity of a set: the analysis' plan, the rule, what it chose, and what of it for each batch_id."""
    canonical = rule if isinstance(rule, SelectionRule) else SelectionRule.from_dict(rule)
    return digest(
        {
            "plan": plan_digest,
            "rule": canonical.to_dict(),
            "experts": sorted_experts(experts),
            "per_batch": per_batch
            if per_batch is None
            else {id_: sorted_experts(own) for id_, own in per_batch.items()},
        }
    )


def to_esft(experts: Iterable[Expert], sites: Sequence[Site]) -> dict[str, Any]:
    """Return the expert configuration that ESFT (expert-specialized fine-tuning) reads: a list for every MoE layer."""
    lists: dict[str, list[int]] = {str(layer): [] for layer in sorted({site.layer for site in sites})}
    for layer, expert in sorted_experts(experts):
        lists[str(layer)].append(expert)
    return {"experts": lists, "shared_experts": False, "non_expert_modules": False}


def from_esft(config: Mapping[str, Any], sites: Sequence[Site] | None = None) -> tuple[Expert, ...]:
    """Read an ESFT expert configuration. Raises RuleInvalid if it asks for more than routed experts.

    sites: the model's, if the experts must be among its own.
    """
    if config.get("shared_experts") or config.get("non_expert_modules"):
        raise RuleInvalid("this configuration trains shared experts or other modules too; an expert set cannot.")
    try:
        experts = sorted_experts((layer, expert) for layer, own in config["experts"].items() for expert in own)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise RuleInvalid(f'not an ESFT configuration ({{"experts": {{"3": [0, 7]}}, ...}}): {error!r}') from error
    if sites is not None:
        check_exist(experts, sites)
    return experts


def _exists(sites: Sequence[Site]) -> NDArray[np.bool_]:
    sizes = np.array([site.n_experts for site in sites])
    there: NDArray[np.bool_] = np.arange(sizes.max()) < sizes[:, None]
    return there
