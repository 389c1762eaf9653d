from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from backend.domain.vocabulary import Site
from tests.worker.tiny import FAMILIES, tiny_model
from worker.capture.padding import pad_rows, segments_of
from worker.capture.protocol import RoutingUnreadable
from worker.capture.tap import RoutingTap, Tapped
from worker.sites import MoeSite, Reading, find_sites

CPU = torch.device("cpu")
ROWS = [np.array(ids, dtype=np.int32) for ids in ([7, 8, 9, 10, 11, 12], [20, 21], [30, 31, 32, 33], [40])]
N_PROMPT = [4, 1, 4, 1]
SEGMENTS = [segments_of(len(row), n) for row, n in zip(ROWS, N_PROMPT, strict=True)]


def tapped(model: nn.Module, *, left: bool, stop_early: bool = True) -> Tapped:
    rectangle = pad_rows(ROWS, SEGMENTS, 0, CPU, left=left)
    with RoutingTap(find_sites(model)) as tap, torch.no_grad():
        return tap.run(
            lambda: model(input_ids=rectangle.ids, attention_mask=rectangle.mask, position_ids=rectangle.positions),
            rectangle.segments,
            stop_early=stop_early,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_either_side_gives_the_same_counts_and_padding_never_counts(family: str) -> None:
    model = tiny_model(family)
    right, left = tapped(model, left=False), tapped(model, left=True)
    assert torch.equal(right.counts, left.counts)
    lengths = torch.tensor([[n - 1, 1, len(row) - n] for row, n in zip(ROWS, N_PROMPT, strict=True)])
    top_k = torch.tensor([site.spec.top_k for site in find_sites(model)])
    assert torch.equal(right.counts.sum(-1).long(), lengths[:, :, None] * top_k)


def test_stopping_at_the_last_router_changes_no_count() -> None:
    model = tiny_model("olmoe")
    whole, stopped = tapped(model, left=False, stop_early=False), tapped(model, left=False)
    assert torch.equal(whole.counts, stopped.counts)
    assert whole.weights is not None
    assert stopped.weights is not None
    assert torch.equal(whole.weights, stopped.weights)


def test_gradient_checkpointing_is_refused_instead_of_counting_twice() -> None:
    model = tiny_model("olmoe").train()
    model.gradient_checkpointing_enable()
    rectangle = pad_rows(ROWS, SEGMENTS, 0, CPU)
    with (
        RoutingTap(find_sites(model)) as tap,
        tap.listening(rectangle.segments),
        pytest.raises(RoutingUnreadable, match=r"twice.*checkpointing"),
    ):
        model(input_ids=rectangle.ids, attention_mask=rectangle.mask, labels=rectangle.ids).loss.backward()


def test_a_site_that_is_never_reached_is_an_error() -> None:
    model = tiny_model("olmoe")
    sites = find_sites(model)
    model.model.layers = model.model.layers[:2]
    rectangle = pad_rows(ROWS, SEGMENTS, 0, CPU)
    model.config.num_hidden_layers = 2
    with RoutingTap(sites) as tap, pytest.raises(RoutingUnreadable, match=r"never reached.*layers\.2"):
        tap.run(lambda: model(input_ids=rectangle.ids), rectangle.segments)


def test_hooks_are_gone_afterwards() -> None:
    model = tiny_model("olmoe")
    tapped(model, left=False)
    assert not any(site.experts._forward_pre_hooks for site in find_sites(model))


class Routed(nn.Module):
    """A router whose output is all there is to see, as in Llama4 and JetMoE."""

    def __init__(self, output: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.output = output

    def forward(self, logits: torch.Tensor) -> object:
        return self.output(logits)


def read(output: Callable[[torch.Tensor], object]) -> Tapped:
    router = Routed(output)
    spec = Site(layer=0, site="block", n_experts=4, top_k=2)
    site = MoeSite(spec, nn.Identity(), nn.Identity(), router, Reading.ROUTER_OUTPUT, (), 4)
    logits = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [1, 9, 2, 8]])
    with RoutingTap([site]) as tap:
        return tap.run(lambda: router(logits), torch.tensor([[0, 1, 2]]))


EXPECTED = [[[[1, 1, 0, 0]], [[0, 0, 1, 1]], [[0, 1, 0, 1]]]]


def masked_scores(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, index = logits.topk(2, dim=1)
    return torch.full_like(logits, float("-inf")).scatter(1, index, values).sigmoid(), logits


def test_scores_that_are_zero_elsewhere_prove_the_choice() -> None:
    assert read(masked_scores).counts.tolist() == EXPECTED


def test_the_number_of_tokens_per_expert_proves_the_choice() -> None:
    assert read(lambda logits: ([1, 2, 1, 2], logits)).counts.tolist() == EXPECTED


def test_indices_of_a_router_are_taken_as_they_are() -> None:
    assert read(lambda logits: (logits, logits.topk(2).indices)).counts.tolist() == EXPECTED


@pytest.mark.parametrize("output", [lambda logits: logits, lambda logits: ([2, 2, 1, 1], logits)])
def test_logits_alone_prove_nothing_and_are_refused(output: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RoutingUnreadable, match="does not show which experts it chose"):
        read(output)
