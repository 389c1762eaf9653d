import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.canonical import sha256_hex
from backend.domain.errors import RuleInvalid
from backend.domain.exchange import imported_rule, read_experts
from backend.domain.experts import SelectionRule, to_esft
from backend.domain.vocabulary import Site

SITES = tuple(Site(layer, f"model.layers.{layer}.mlp", 8, 2) for layer in (1, 3, 4))
sets = st.sets(st.tuples(st.sampled_from([1, 3, 4]), st.integers(0, 7)), min_size=1).map(lambda s: tuple(sorted(s)))


@given(sets)
def test_what_is_exported_for_esft_comes_back_the_same(experts):
    rule = imported_rule(json.dumps(to_esft(experts, SITES)).encode(), "config.json")
    rule.validate(SITES)
    assert rule.experts == experts
    assert rule.method == "manual"


@given(sets)
def test_our_own_json_of_a_set_comes_back_the_same(experts):
    ours = {"id": "es_1", "name": "n", "kind": "global", "experts": experts, "rule": {"method": "top_k", "k": 3}}
    assert read_experts(json.loads(json.dumps(ours))) == ("routeprint", experts)


@given(sets)
def test_an_imported_rule_survives_json_with_its_source(experts):
    content = json.dumps(to_esft(experts, SITES)).encode()
    rule = imported_rule(content, "config.json")
    assert rule.source == {"format": "esft", "file": "config.json", "sha256": sha256_hex(content)}
    assert SelectionRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


def test_a_choice_by_hand_has_no_source_so_its_identity_is_what_it_was():
    assert "source" not in SelectionRule("manual", experts=((1, 0),)).to_dict()


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"experts": {"1": [0]}, "shared_experts": True}, "shared_experts is True"),
        ({"experts": {"1": [0]}, "non_expert_modules": True}, "non_expert_modules is True"),
        ({"experts": {"1": [0]}, "shared_experts": "no"}, "shared_experts is 'no'"),
        ({"experts": {"one": [0]}}, "layer 'one'"),
        ({"experts": {"1": [0.5]}}, "layer 1 must have"),
        ({"experts": {"1": [True]}}, "layer 1 must have"),
        ({"experts": {"1": 3}}, "layer 1 must have"),
        ({"experts": {"1": []}}, "names no expert"),
        ({"experts": [[1, 0, 2]]}, "[layer, expert]"),
        ({"experts": [[1, -1]]}, "[layer, expert]"),
        ({"experts": "all"}, "must be a list"),
        ({"experts": [[1, 0]], "kind": "per_batch"}, "per_batch"),
        ({"layers": []}, "neither an ESFT"),
        ([], "neither an ESFT"),
    ],
)
def test_what_is_not_a_set_of_routed_experts_is_refused_by_name(config, word):
    with pytest.raises(RuleInvalid) as caught:
        read_experts(config)
    assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, b" " * (5 * 2**20)])
def test_what_is_not_json_or_too_large_is_refused(content):
    with pytest.raises(RuleInvalid):
        imported_rule(content, "x.json")


@pytest.mark.parametrize(("experts", "word"), [({"2": [0]}, "layer 2"), ({"3": [8]}, "expert 8")])
def test_experts_that_the_model_does_not_have_are_named(experts, word):
    with pytest.raises(RuleInvalid, match=word):
        imported_rule(json.dumps({"experts": experts}).encode(), "x.json").validate(SITES)


def test_a_rule_that_measures_cannot_claim_to_come_from_elsewhere():
    with pytest.raises(RuleInvalid, match="source"):
        SelectionRule("top_k", k=1, source={"file": "x"}).validate()
