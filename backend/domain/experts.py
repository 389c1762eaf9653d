"""Expert sets: choosing (layer, expert) pairs by a rule, their masks, identities and exchange format.

An expert is named by the model's own layer number. Where one layer holds two MoE sites, a pair means that expert of
both: it is chosen if either site's figure is, and masked in both. Not covered: significance (statistics), training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.canonical import digest
from backend.domain.errors import RuleInvalid
from backend.domain.vocabulary import Expert, Pool, Scope, Site

__all__ = [
    "Expert",
    "SelectionRule",
    "Site",
    "expert_mask",
    "expert_set_digest",
    "from_esft",
    "per_layer_counts",
    "select",
    "to_esft",
]

_WORDS = {
    "method": ("threshold", "top_k", "top_k_per_layer", "manual"),
    "kind": ("global", "per_batch"),
    "pool": tuple(Pool),
    "scope": tuple(Scope),
    "direction": ("unsafe", "safe", "both"),
}
_PARAMETER = {"threshold": "threshold", "top_k": "k", "top_k_per_layer": "k", "manual": "experts"}
"""What each method needs, and no other method may carry."""


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How experts are chosen. `validate` says what is wrong with one.

    direction: `unsafe` chooses only among risk_diff > 0, `safe` only among risk_diff < 0, `both` by absolute value.
    threshold: the absolute value must lie above it. k: how many with the largest absolute value, over the model or per
    layer. kind `per_batch` applies the rule to each batch's own risk_diff. source: for `manual`, where an imported
    choice came from: {"format", "file", "sha256"}.
    """

    method: str
    kind: str = "global"
    pool: Pool = Pool.MEAN
    scope: Scope = Scope.PROMPT
    direction: str = "unsafe"
    threshold: float | None = None
    k: int | None = None
    experts: tuple[Expert, ...] = ()
    source: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name, kind in (("pool", Pool), ("scope", Scope)):
            if getattr(self, name) in _WORDS[name]:
                object.__setattr__(self, name, kind(getattr(self, name)))
        try:
            object.__setattr__(self, "experts", _sorted(self.experts or ()))
        except (TypeError, ValueError) as error:
            raise RuleInvalid("experts must be a list of [layer, expert] numbers.", ("experts",)) from error

    def validate(self, sites: Sequence[Site] | None = None) -> None:
        """Raise RuleInvalid unless the rule makes sense, with its experts among those of `sites` if given."""
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise RuleInvalid(f"{name} is {getattr(self, name)!r}; use {', '.join(words)}.", (name,))
        needed = _PARAMETER[self.method]
        for name in ("threshold", "k", "experts"):
            given = getattr(self, name) not in (None, ())
            if given and name != needed:
                raise RuleInvalid(f"{name} means nothing to method {self.method!r}; it needs {needed}.", (name,))
            if not given and name == needed:
                raise RuleInvalid(f"method {self.method!r} needs {name}.", (name,))
        self._check_values()
        if sites is not None:
            _check_exist(self.experts, sites)

    def _check_values(self) -> None:
        if self.threshold is not None and not (isinstance(self.threshold, int | float) and 0 <= self.threshold < inf):
            raise RuleInvalid(
                f"threshold is {self.threshold!r}; it is compared with absolute values, so give a number of 0 or more.",
                ("threshold",),
            )
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise RuleInvalid(f"k is {self.k!r}; give a whole number of at least 1.", ("k",))
        if self.source is not None and self.method != "manual":
            raise RuleInvalid("only a choice by hand comes from elsewhere; leave source away.", ("source",))
        if self.method == "manual" and self.kind == "per_batch":
            raise RuleInvalid("a manual choice is the same for every batch; use kind 'global'.", ("kind",))

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as plain JSON: its words and the one parameter of its method."""
        needed = _PARAMETER.get(self.method, "experts")
        value: Any = [list(expert) for expert in self.experts] if needed == "experts" else getattr(self, needed)
        if needed == "threshold" and value is not None:
            value = float(value)  # so that 0 and 0.0 are one rule
        origin = {} if self.source is None else {"source": dict(self.source)}
        return {name: str(getattr(self, name)) for name in _WORDS} | {needed: value} | origin

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SelectionRule":
        """Read what `to_dict` wrote, or a request's fields (None: not given). Raises RuleInvalid on unknown fields."""
        unknown = sorted(set(value) - {one.name for one in fields(cls)})
        if unknown:
            raise RuleInvalid(f"a rule has no field {unknown[0]!r}.", (unknown[0],))
        if value.get("method") is None:
            raise RuleInvalid(f"a rule needs a method: {', '.join(_WORDS['method'])}.", ("method",))
        return cls(**{name: given for name, given in value.items() if given is not None})


def select(risk_diff: NDArray[Any], sites: Sequence[Site], rule: SelectionRule) -> tuple[Expert, ...]:
    """Return the experts that the rule chooses, sorted by (layer, expert).

    risk_diff: [site, expert] in the rule's pool and scope; NaN (not measured) is never chosen, nor is zero. Equal
    values go to the lower (layer, expert). Fewer than k come back where fewer have the direction's sign.
    Raises RuleInvalid.
    """
    rule.validate(sites)
    if rule.method == "manual":
        return rule.experts
    layers, scores = _scores(np.asarray(risk_diff), sites, rule.direction)
    if rule.threshold is not None:
        chosen = scores > rule.threshold
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


def _largest(scores: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    """Mark the k largest of each row; the earlier wins a tie."""
    best_first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, best_first, True, axis=1)
    return chosen


def expert_mask(experts: Iterable[Expert], sites: Sequence[Site]) -> NDArray[np.bool_]:
    """Return [site, expert]: whether the set holds it. Raises RuleInvalid for an expert the model does not have."""
    wanted = _sorted(experts)
    _check_exist(wanted, sites)
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
            "experts": _sorted(experts),
            "per_batch": per_batch if per_batch is None else {id_: _sorted(own) for id_, own in per_batch.items()},
        }
    )


def to_esft(experts: Iterable[Expert], sites: Sequence[Site]) -> dict[str, Any]:
    """Return the expert configuration that ESFT (expert-specialized fine-tuning) reads: a list for every MoE layer."""
    lists: dict[str, list[int]] = {str(layer): [] for layer in sorted({site.layer for site in sites})}
    for layer, expert in _sorted(experts):
        lists[str(layer)].append(expert)
    return {"experts": lists, "shared_experts": False, "non_expert_modules": False}


def from_esft(config: Mapping[str, Any], sites: Sequence[Site] | None = None) -> tuple[Expert, ...]:
    """Read an ESFT expert configuration. Raises RuleInvalid if it asks for more than routed experts.

    sites: the model's, if the experts must be among its own.
    """
    if config.get("shared_experts") or config.get("non_expert_modules"):
        raise RuleInvalid("this configuration trains shared experts or other modules too; an expert set cannot.")
    try:
        experts = _sorted((layer, expert) for layer, own in config["experts"].items() for expert in own)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise RuleInvalid(f'not an ESFT configuration ({{"experts": {{"3": [0, 7]}}, ...}}): {error!r}') from error
    if sites is not None:
        _check_exist(experts, sites)
    return experts


def _sorted(experts: Iterable[Sequence[Any]]) -> tuple[Expert, ...]:
    return tuple(sorted({(int(layer), int(expert)) for layer, expert in experts}))


def _exists(sites: Sequence[Site]) -> NDArray[np.bool_]:
    sizes = np.array([site.n_experts for site in sites])
    there: NDArray[np.bool_] = np.arange(sizes.max()) < sizes[:, None]
    return there


def _check_exist(experts: Iterable[Expert], sites: Sequence[Site]) -> None:
    sizes: dict[int, int] = {}
    for site in sites:
        sizes[site.layer] = max(site.n_experts, sizes.get(site.layer, 0))
    for layer, expert in experts:
        if layer not in sizes:
            raise RuleInvalid(
                f"layer {layer} has no routed experts; the MoE layers are {_ranges(sorted(sizes))}.", ("experts",)
            )
        if not 0 <= expert < sizes[layer]:
            raise RuleInvalid(
                f"layer {layer} has no expert {expert}; its experts are 0 to {sizes[layer] - 1}.", ("experts",)
            )


def _ranges(numbers: Sequence[int]) -> str:
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
