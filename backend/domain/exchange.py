"""Expert sets that come from elsewhere: ESFT's expert configuration, and our own JSON of a set.

Both name experts by the model's own layer number. Not covered: risk tables (risk_tables.py), choosing (experts.py).
"""

import json
from collections.abc import Mapping
from typing import Any

from backend.domain.canonical import canonical_json, sha256_hex
from backend.domain.errors import RuleInvalid
from backend.domain.experts import SelectionRule, from_esft
from backend.domain.vocabulary import Expert

MAX_BYTES = 4 * 2**20
"""Largest configuration: 100,000 experts in words take less than one."""
_MAX_EXPERTS = 100_000


def imported_rule(content: bytes, filename: str) -> SelectionRule:
    """Return a manual rule that names the file's experts and says where they came from. Raises RuleInvalid.

    Whether the model has these experts is checked where the rule is applied (`SelectionRule.validate`).
    """
    if len(content) > MAX_BYTES:
        raise RuleInvalid(f"The file has {len(content):,} bytes; an expert set has at most {MAX_BYTES:,}.", ("file",))
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        raise RuleInvalid("The file is not JSON.", ("file",)) from None
    try:
        canonical_json(config)
    except (ValueError, RecursionError):
        raise RuleInvalid("The file holds what JSON cannot: a NaN, or broken Unicode.", ("file",)) from None
    form, experts = read_experts(config)
    source = {"format": form, "file": filename, "sha256": sha256_hex(content)}
    return SelectionRule("manual", experts=experts, source=source)


def read_experts(config: Any) -> tuple[str, tuple[Expert, ...]]:
    """Return the format, `esft` or `routeprint`, and the experts of a configuration. Raises RuleInvalid."""
    if not isinstance(config, dict) or "experts" not in config:
        raise RuleInvalid(
            'This is neither an ESFT configuration ({"experts": {"3": [0, 7]}, "shared_experts": false, ...}) nor an '
            'expert set of ours ({"experts": [[3, 0], [3, 7]], ...}): it has no field "experts".',
            ("file", "experts"),
        )
    form, experts = ("esft", _of_esft(config)) if isinstance(config["experts"], dict) else ("routeprint", _ours(config))
    if not experts:
        raise RuleInvalid("The file names no expert: nothing could be trained with it.", ("file", "experts"))
    if len(experts) > _MAX_EXPERTS:
        raise RuleInvalid(f"The file names {len(experts):,} experts; a set has at most {_MAX_EXPERTS:,}.", ("file",))
    return form, experts


def _of_esft(config: Mapping[str, Any]) -> tuple[Expert, ...]:
    for name in ("shared_experts", "non_expert_modules"):
        if config.get(name, False) is not False:
            raise RuleInvalid(
                f"{name} is {config[name]!r}: this configuration trains more than routed experts, and an expert set "
                "holds routed experts only. Set it to false, if that is what you mean.",
                ("file", name),
            )
    for layer, own in config["experts"].items():
        if not (layer.isascii() and layer.isdigit()):
            raise RuleInvalid(f"experts names the layer {layer!r}: write its number.", ("file", "experts", layer))
        if not isinstance(own, list) or any(not _is_index(expert) for expert in own):
            raise RuleInvalid(
                f"layer {layer} must have a list of expert numbers, such as [0, 7].", ("file", "experts", layer)
            )
    return from_esft(config)


def _ours(config: Mapping[str, Any]) -> tuple[Expert, ...]:
    if config.get("kind", "global") != "global":
        raise RuleInvalid(
            "This set is per_batch: its file holds only the union over the batches it was chosen for, which another "
            "analysis does not have. Apply its rule there instead.",
            ("file", "kind"),
        )
    pairs = config["experts"]
    if not isinstance(pairs, list):
        raise RuleInvalid("experts must be a list of [layer, expert] numbers.", ("file", "experts"))
    for place, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_index, pair))):
            raise RuleInvalid(
                "an expert is written as [layer, expert], two whole numbers of 0 or more.", ("file", "experts", place)
            )
    return tuple(sorted({(layer, expert) for layer, expert in pairs}))


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100_000
