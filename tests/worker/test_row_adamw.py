import copy

import pytest
import torch

from backend.domain.errors import NotSupported
from worker import row_adamw
from worker.row_adamw import OwnedRows, RowAdamW

SETTINGS = {"lr": 0.05, "weight_decay": 0.1}


def grads(step, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def fused(dtype=torch.float32, n_experts=4):
    return torch.nn.Parameter(grads(99, (n_experts, 3, 2)).to(dtype))


def test_owned_rows_move_exactly_as_torch_s_adamw_would_move_them():
    parameter, whole = fused(), torch.nn.Parameter(grads(98, (5,)))
    reference = [torch.nn.Parameter(parameter.detach()[[1, 3]].clone()), torch.nn.Parameter(whole.detach().clone())]
    ours = RowAdamW([whole], [OwnedRows(parameter, 1, [3, 1])], **SETTINGS)
    theirs = torch.optim.AdamW(reference, **SETTINGS)
    before = parameter.detach().clone()
    for step in range(5):
        parameter.grad, whole.grad = grads(step, parameter.shape), grads(step + 50, whole.shape)
        reference[0].grad, reference[1].grad = parameter.grad[[1, 3]].clone(), whole.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(parameter.detach()[[1, 3]], reference[0].detach())
    assert torch.equal(whole.detach(), reference[1].detach())
    assert torch.equal(parameter.detach()[[0, 2]], before[[0, 2]])


def test_state_exists_for_owned_rows_only():
    parameter = fused(n_experts=64)
    optimizer = RowAdamW([], [OwnedRows(parameter, 1, [5])], **SETTINGS)
    parameter.grad = grads(0, parameter.shape)
    optimizer.step()
    numbers = sum(t.numel() for t in optimizer.state[parameter].values())
    assert numbers == 2 * parameter[0].numel() + 1  # two moments, and how many steps it took


def test_rows_that_are_not_active_keep_weights_and_momentum_and_count_their_own_steps():
    parameter = fused()
    owned = OwnedRows(parameter, 1, [0, 2])
    optimizer = RowAdamW([], [owned], **SETTINGS)
    alone = torch.nn.Parameter(parameter.detach()[2].clone())
    reference = torch.optim.AdamW([alone], **SETTINGS)
    for step, active in enumerate([(0, 2), (0,), (0,), (2,)]):
        before = {name: t.clone() for name, t in optimizer.state[parameter].items()} | {"w": parameter.detach().clone()}
        owned.active = active
        parameter.grad = grads(step, parameter.shape)
        if 2 in active:
            alone.grad = parameter.grad[2].clone()
            reference.step()
        optimizer.step()
        if active == (0,):
            assert torch.equal(parameter.detach()[2], before["w"][2])
            assert all(torch.equal(t[1], before[name][1]) for name, t in optimizer.state[parameter].items())
    assert torch.equal(parameter.detach()[2], alone.detach())


def test_experts_that_share_an_axis_with_their_rows_are_told_apart():
    parameter = torch.nn.Parameter(grads(1, (8, 2)))  # 4 experts of 2 rows each, as DBRX stores them
    before = parameter.detach().clone()
    optimizer = RowAdamW([], [OwnedRows(parameter, 2, [1])], **SETTINGS)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not (parameter.detach()[2:4] == before[2:4]).any()
    assert torch.equal(parameter.detach()[[0, 1, 4, 5, 6, 7]], before[[0, 1, 4, 5, 6, 7]])


def test_small_steps_are_not_rounded_away_in_16_bits():
    parameter = torch.nn.Parameter(torch.ones(2, 1, 1, dtype=torch.bfloat16))
    optimizer = RowAdamW([], [OwnedRows(parameter, 1, [1])], lr=1e-4)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter[1].item() == pytest.approx(0.99, abs=2e-3)
    assert parameter[0].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_comes_back_bit_for_bit(dtype):
    def steps(parameter, optimizer, numbers):
        for step in numbers:
            parameter.grad = grads(step, parameter.shape).to(dtype)
            optimizer.step()

    def start():
        parameter = fused(dtype)
        return parameter, RowAdamW([], [OwnedRows(parameter, 1, [1, 3])], **SETTINGS)

    undisturbed, optimizer = start()
    steps(undisturbed, optimizer, range(6))
    first, optimizer = start()
    steps(first, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    second, optimizer = start()
    second.data.copy_(first.data)
    optimizer.load_state_dict(saved)
    steps(second, optimizer, range(3, 6))
    assert torch.equal(second, undisturbed)


def test_the_state_of_another_expert_set_is_refused():
    parameter = fused()
    saved = RowAdamW([], [OwnedRows(parameter, 1, [0])], **SETTINGS).state_dict()
    with pytest.raises(ValueError, match="another expert set"):
        RowAdamW([], [OwnedRows(parameter, 1, [1])], **SETTINGS).load_state_dict(saved)


def test_weight_decay_reaches_only_what_it_should():
    bias, weight = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2, 3, 3))
    rows = [OwnedRows(bias, 1, [0]), OwnedRows(weight, 1, [0])]
    optimizer = RowAdamW([], rows, lr=0.1, weight_decay=0.5, decayed=lambda p: p is weight)
    bias.grad, weight.grad = torch.zeros_like(bias), torch.zeros_like(weight)
    optimizer.step()
    assert bias.detach().eq(1).all()
    assert weight.detach()[0].allclose(torch.tensor(0.95))
    assert weight.detach()[1].eq(1).all()


def test_a_part_that_would_cut_an_expert_in_two_is_refused(monkeypatch):
    monkeypatch.setattr(row_adamw, "held", lambda _: (0, 3))  # what a process holds of four experts with two rows each
    with pytest.raises(NotSupported, match="cut an expert in two"):
        OwnedRows(torch.nn.Parameter(torch.zeros(8, 4)), 2, [0])
    monkeypatch.setattr(row_adamw, "held", lambda _: (4, 8))
    owned = OwnedRows(torch.nn.Parameter(torch.zeros(8, 4)), 2, [0, 3])
    assert (owned.wanted, owned.experts) == ((0, 3), (3,))
