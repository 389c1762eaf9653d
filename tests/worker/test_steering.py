import dataclasses

import numpy as np
import pytest
import torch

from backend.domain.errors import NotSupported
from backend.domain.evaluation.interventions import Intervention
from tests.worker.families import FAMILIES, build
from tests.worker.tiny import tiny_model, tiny_tokenizer
from worker.models import LoadedModel, as_loaded
from worker.sites import find_sites
from worker.steering import SteeringNotEffective, check_effect, effect_of, probe, steered

OFF, ON = Intervention.DEACTIVATE, Intervention.ACTIVATE
CHECKED = ("olmoe", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "gpt_oss", "llama4", "dbrx")
IDS = torch.arange(2, 62).reshape(3, 20)
PROMPTS = [np.arange(start, start + n, dtype=np.int32) for start, n in ((5, 9), (70, 14), (200, 5))]
TOKENS = 28


def loaded(family: str) -> LoadedModel:
    return as_loaded(build(next(f for f in FAMILIES if f.name == family)), tiny_tokenizer())


def everywhere(model: LoadedModel, *experts: int) -> list[tuple[int, int]]:
    return sorted({(site.spec.layer, expert) for site in model.sites for expert in experts})


@pytest.mark.parametrize("family", CHECKED)
def test_deactivated_experts_receive_exactly_nothing_and_activated_ones_every_token(family: str) -> None:
    model = loaded(family)
    chosen = everywhere(model, 0, 5)
    free, tokens = probe(model, PROMPTS)
    assert tokens == TOKENS
    assert 0 < effect_of(model.sites, free, tokens, chosen).to_the_set < TOKENS * len(chosen)
    with steered(model.sites, chosen, OFF):
        counts, _ = probe(model, PROMPTS)
        assert check_effect(model, PROMPTS, chosen, OFF).to_the_set == 0
    assert counts[:, [0, 5]].sum() == 0
    assert counts.sum() == free.sum(), "every token still goes to top-k experts"
    with steered(model.sites, chosen, ON):
        assert check_effect(model, PROMPTS, chosen, ON).to_the_set == TOKENS * len(chosen)
    again, _ = probe(model, PROMPTS)
    assert (again == free).all(), "after the block the model routes as before"


def test_a_router_corrected_by_groups_and_biases_is_steered_on_what_it_really_chooses_from() -> None:
    model = loaded("deepseek_v3")
    router = model.sites[0].router
    assert router is not None
    router.e_score_correction_bias.copy_(torch.tensor([9.0, 0, 0, 0, 0, 0]))  # the logits of expert 0 say nothing now
    chosen = everywhere(model, 0)
    counts, tokens = probe(model, PROMPTS)
    assert counts[0, 0] == tokens
    with steered(model.sites, chosen, OFF):
        assert check_effect(model, PROMPTS, chosen, OFF).to_the_set == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_steered_stays_bit_for_bit(dtype: torch.dtype) -> None:
    model = as_loaded(tiny_model("olmoe").to(dtype), tiny_tokenizer())
    with torch.no_grad():
        plain = model.model(IDS).logits
        with steered(model.sites, [], OFF):
            assert torch.equal(model.model(IDS).logits, plain)
        with steered(model.sites, [(1, 3)], OFF):
            assert not torch.equal(model.model(IDS).logits, plain)
        assert torch.equal(model.model(IDS).logits, plain)
    assert "forward" not in vars(model.sites[0].router or object)


def test_the_experts_that_remain_are_the_best_of_the_rest_with_the_weights_of_a_router_without_the_others() -> None:
    model = tiny_model("mixtral")
    site = find_sites(model)[0]
    hidden = torch.randn(30, 32, generator=torch.Generator().manual_seed(0))
    assert site.router is not None
    with torch.no_grad():
        scores = hidden @ site.router.weight.T
        scores[:, 1] = -torch.inf
        wanted, index = scores.softmax(dim=-1).topk(2, dim=-1)
        with steered([site], [(site.spec.layer, 1)], OFF):
            _, weights, chosen = site.router(hidden)
    assert torch.equal(chosen, index)
    assert torch.allclose(weights, wanted / wanted.sum(dim=-1, keepdim=True))


def test_a_layer_that_would_be_left_with_fewer_than_top_k_is_refused_by_its_number() -> None:
    sites = find_sites(tiny_model("mixtral"))
    with pytest.raises(NotSupported, match="Layer 1 has 4 experts"), steered(sites, [(1, 0), (1, 1), (1, 2)], OFF):
        pass
    with (
        pytest.raises(NotSupported, match="Layer 0 sends a token to 2"),
        steered(sites, [(0, e) for e in range(3)], ON),
    ):
        pass


def test_a_site_without_a_router_and_a_router_without_scores_are_refused_by_name() -> None:
    model = as_loaded(tiny_model("olmoe"), tiny_tokenizer())
    bare = dataclasses.replace(model.sites[0], router=None)
    with pytest.raises(NotSupported, match="OlmoeSparseMoeBlock"), steered([bare], [(0, 1)], OFF):
        pass
    router = model.sites[0].router
    assert router is not None
    router.forward = lambda hidden: (hidden, torch.ones(60, 2) / 2, torch.zeros(60, 2, dtype=torch.long))
    with pytest.raises(NotSupported, match="OlmoeTopKRouter"), steered(model.sites, [(0, 1)], OFF):
        model.model(IDS)


def test_steering_without_effect_is_an_error_that_names_layer_and_expert() -> None:
    model = loaded("deepseek_v4")  # its first layer looks the experts of a token up in a table
    chosen = [(0, 0)]
    with steered(model.sites, chosen, OFF), pytest.raises(SteeringNotEffective, match="Expert 0 of layer 0"):
        check_effect(model, PROMPTS, chosen, OFF)
    with steered(model.sites, [(1, 0)], OFF):
        assert check_effect(model, PROMPTS, [(1, 0)], OFF).to_the_set == 0
