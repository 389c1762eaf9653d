"""Selection rules: how experts are chosen, said in a way that two rules that choose alike have one form.

Not covered: choosing by a rule (experts.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

from backend.domain.errors import RuleInvalid
from backend.domain.vocabulary import Expert, Pool, Scope, Site

_WORDS = {
    "method": ("threshold", "top_k", "top_k_per_layer", "significant", "cumulative", "manual"),
    "kind": ("global", "per_batch"),
    "pool": tuple(Pool),
    "scope": tuple(Scope),
    "direction": ("unsafe", "safe", "both"),
}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "threshold": ("threshold",),
    "top_k": ("k",),
    "top_k_per_layer": ("k",),
    "significant": ("alpha", "correction", "statistics"),
    "cumulative": ("share",),
    "manual": ("experts",),
}
"""What each method needs, and no other method may carry."""
CORRECTIONS = {"max_t": "p_max_t", "bh": "q"}
"""How `significant` minds that many experts are tested, and the figure of the statistics that it goes by."""


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How experts are chosen. `validate` says what is wrong with one.

    direction: `unsafe` chooses only among risk_diff > 0, `safe` only among risk_diff < 0, `both` by absolute value.
    threshold: the absolute value must lie above it. k: how many with the largest absolute value, over the model or per
    layer. share: the fewest experts, the largest first, whose absolute values together reach this part of all that have
    the direction's sign. alpha: p_max_t (correction `max_t`) or q (`bh`) must not lie above it; statistics: the SHA-256
    of those that say so. kind `per_batch` applies the rule to each batch's own risk_diff. source: for `manual`, where
    an imported choice came from: {"format", "file", "sha256"}.
    """

    method: str
    kind: str = "global"
    pool: Pool = Pool.MEAN
    scope: Scope = Scope.PROMPT
    direction: str = "unsafe"
    threshold: float | None = None
    k: int | None = None
    share: float | None = None
    alpha: float | None = None
    correction: str | None = None
    statistics: str | None = None
    experts: tuple[Expert, ...] = ()
    source: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name, kind in (("pool", Pool), ("scope", Scope)):
            if getattr(self, name) in _WORDS[name]:
                object.__setattr__(self, name, kind(getattr(self, name)))
        if self.method == "significant":
            object.__setattr__(self, "alpha", 0.05 if self.alpha is None else self.alpha)
            object.__setattr__(self, "correction", self.correction or "max_t")
        try:
            object.__setattr__(self, "experts", sorted_experts(self.experts or ()))
        except (TypeError, ValueError) as error:
            raise RuleInvalid("experts must be a list of [layer, expert] numbers.", ("experts",)) from error

    def validate(self, sites: Sequence[Site] | None = None) -> None:
        """Raise RuleInvalid unless the rule makes sense, with its experts among those of `sites` if given."""
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise RuleInvalid(f"{name} is {getattr(self, name)!r}; use {', '.join(words)}.", (name,))
        needed = _PARAMETERS[self.method]
        for name in ("threshold", "k", "share", "alpha", "correction", "statistics", "experts"):
            given = getattr(self, name) not in (None, ())
            if given and name not in needed:
                raise RuleInvalid(f"{name} means nothing to method {self.method!r}; it needs {needed[0]}.", (name,))
            if not given and name in needed and name != "statistics":
                raise RuleInvalid(f"method {self.method!r} needs {name}.", (name,))
        self._check_values()
        if sites is not None:
            check_exist(self.experts, sites)

    def _check_values(self) -> None:
        if self.threshold is not None and not (_is_number(self.threshold) and 0 <= self.threshold < inf):
            raise RuleInvalid(
                f"threshold is {self.threshold!r}; it is compared with absolute values, so give a number of 0 or more.",
                ("threshold",),
            )
        for name in ("share", "alpha"):
            part = getattr(self, name)
            if part is not None and not (_is_number(part) and 0 < part <= 1):
                raise RuleInvalid(f"{name} is {part!r}; give a number above 0 and not above 1.", (name,))
        if self.correction not in (None, *CORRECTIONS):
            raise RuleInvalid(f"correction is {self.correction!r}; use {', '.join(CORRECTIONS)}.", ("correction",))
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise RuleInvalid(f"k is {self.k!r}; give a whole number of at least 1.", ("k",))
        if self.source is not None and self.method != "manual":
            raise RuleInvalid("only a choice by hand comes from elsewhere; leave source away.", ("source",))
        if self.method == "manual" and self.kind == "per_batch":
            raise RuleInvalid("a manual choice is the same for every batch; use kind 'global'.", ("kind",))
        if self.method == "significant" and self.kind == "per_batch":
            raise RuleInvalid(
                "a batch has too few prompts for a test over all experts; use kind 'global', or choose another method "
                "for each batch.",
                ("kind",),
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as plain JSON: its words and the parameters of its method."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _PARAMETERS.get(self.method, ("experts",))}
        for name in ("threshold", "share", "alpha"):
            if values.get(name) is not None:
                values[name] = float(values[name])  # so that 0 and 0.0 are one rule
        if "experts" in values:
            values["experts"] = [list(expert) for expert in self.experts]
        origin = {} if self.source is None else {"source": dict(self.source)}
        return {name: str(getattr(self, name)) for name in _WORDS} | values | origin

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SelectionRule":
        """Read what `to_dict` wrote, or a request's fields (None: not given). Raises RuleInvalid on unknown fields."""
        unknown = sorted(set(value) - {one.name for one in fields(cls)})
        if unknown:
            raise RuleInvalid(f"a rule has no field {unknown[0]!r}.", (unknown[0],))
        if value.get("method") is None:
            raise RuleInvalid(f"a rule needs a method: {', '.join(_WORDS['method'])}.", ("method",))
        return cls(**{name: given for name, given in value.items() if given is not None})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sorted_experts(experts: Iterable[Sequence[Any]]) -> tuple[Expert, ...]:
    """Return the pairs as whole numbers, each once, in order."""
    return tuple(sorted({(int(layer), int(expert)) for layer, expert in experts}))


def check_exist(experts: Iterable[Expert], sites: Sequence[Site]) -> None:
    """Raise RuleInvalid, naming it, for an expert that the model does not have."""
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
