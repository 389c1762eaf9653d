"""Routers that learn in turn: what their loss is, what it reaches, and that a run without them leaves them alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import transformers

from backend.domain.errors import InvalidInput, NotSupported
from backend.domain.step_order import batch_order
from backend.domain.turns import Turn
from tests.worker.families import FAMILIES, Family, build
from tests.worker.test_families import one_thread
from tests.worker.tiny import save_tiny, tiny_model
from tests.worker.tiny_runs import ListSink, changed, timeless, tiny_batches, tiny_run, weights
from worker.abilities import refusals
from worker.consistency import RouterScores, consistency, mean_log_distribution
from worker.examples import IGNORED, BatchCollator, ExampleRows
from worker.masked_routing import MaskedRouting
from worker.masking import ExpertChoice, Learn, LearningWeights
from worker.models import build_skeleton, usable_sites
from worker.ranks import Ranks
from worker.router_steps import PairedRouting
from worker.sites import find_sites
from worker.training import train
from worker.turns import router_parameters

HIDDEN = {"inkling", "deepseek_v4"}
EXPERTS = [(0, 1), (1, 0), (1, 3)]


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


@pytest.fixture(scope="module")
def undisturbed(olmoe, tmp_path_factory):
    run, sink = tiny_run(olmoe, tmp_path_factory.mktemp("undisturbed"), routers={}), ListSink()
    return run, sink, train(run, sink)


# --- the loss


def scores_into(layers):
    def look(router, args):
        layers.append(args[0].reshape(-1, args[0].shape[-1]).double() @ router.weight.double().T)

    return look


def by_hand(model, batch) -> float:
    """Return the consistency of a batch in float64, prompt by prompt, from a hook on each router."""
    found = {}
    for example in batch.examples:
        layers: list[torch.Tensor] = []
        hooks = [site.router.register_forward_pre_hook(scores_into(layers)) for site in find_sites(model)]
        with torch.no_grad():
            model(torch.from_numpy(example.prompt_ids.astype(np.int64))[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        found[example.in_batch_idx] = [torch.softmax(scores, -1).mean(0).numpy() for scores in layers]
    terms = [
        sum(float(p) * math.log(float(p) / float(q)) for p, q in zip(safe, unsafe, strict=True))
        for s, u in batch.pairs
        for safe, unsafe in zip(found[s], found[u], strict=True)
    ]
    return sum(terms) / len(terms)


def measured(model, batch, rows, pad: int = 0) -> dict:
    """Return the routing of some rows of a batch, fed together with their answers and more padding."""
    data = ExampleRows([batch])
    inputs = BatchCollator(0)([data[i] for i in rows])
    for name, value in (("input_ids", 7), ("attention_mask", 0), ("labels", IGNORED)):
        inputs[name] = torch.nn.functional.pad(inputs[name], (0, pad), value=value)
    paired = PairedRouting.of(find_sites(model), [batch])
    with paired.looking(inputs, learning=False), torch.no_grad():
        model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    return paired.routing


def test_two_tokens_and_two_experts_by_hand():
    # q(safe) = mean of (1/2, 1/2) and (3/4, 1/4) = (5/8, 3/8); q(unsafe) = (1/4, 3/4)
    safe = (mean_log_distribution(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])),)
    unsafe = (mean_log_distribution(torch.tensor([[0.0, math.log(3)]])),)
    assert torch.exp(safe[0]).tolist() == pytest.approx([5 / 8, 3 / 8])
    expected = 5 / 8 * math.log((5 / 8) / (1 / 4)) + 3 / 8 * math.log((3 / 8) / (3 / 4))
    assert float(consistency([(0, 1)], {0: safe, 1: unsafe})) == pytest.approx(expected)
    assert float(consistency([(0, 1), (0, 2)], {0: safe, 1: unsafe, 2: safe})) == pytest.approx(expected / 2)
    assert float(consistency([], {})) == 0


@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
def test_the_loss_of_a_batch_is_the_one_computed_by_hand_from_its_unpadded_prompts(family):
    model, batch = tiny_model(family), tiny_batches((6,))[0]
    expected = by_hand(model, batch)
    assert expected > 1e-3
    found = measured(model, batch, range(6))
    assert float(consistency(batch.pairs, found)) == pytest.approx(expected, rel=1e-4)


def test_padding_batch_mates_and_answers_do_not_matter():
    model, batch = tiny_model("olmoe"), tiny_batches((6,))[0]
    together = measured(model, batch, range(6))
    alone = {k: v for i in range(6) for k, v in measured(model, batch, [i], pad=9 * i).items()}
    for place in range(6):
        for one, other in zip(together[place], alone[place], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            assert float(other.exp().sum()) == pytest.approx(1, rel=1e-5)
    other_answers = dataclasses.replace(
        batch, examples=tuple(dataclasses.replace(e, answer_ids=e.answer_ids[:1]) for e in batch.examples)
    )
    short = measured(model, other_answers, range(6))
    assert float(consistency(batch.pairs, short)) == pytest.approx(float(consistency(batch.pairs, together)), rel=1e-4)


def test_where_the_analysis_left_out_template_tokens_they_do_not_count_here_either():
    model, batch = tiny_model("olmoe"), tiny_batches((2,))[0]
    own = [np.arange(len(e.prompt_ids)) % 2 == 0 for e in batch.examples]
    marked = dataclasses.replace(
        batch, examples=tuple(dataclasses.replace(e, own=o) for e, o in zip(batch.examples, own, strict=True))
    )
    found = measured(model, marked, range(2), pad=3)
    site, example = find_sites(model)[0], batch.examples[0]
    hidden = []
    hook = site.router.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    with torch.no_grad():
        model(torch.from_numpy(example.prompt_ids.astype(np.int64))[None], use_cache=False)
        hook.remove()
        scores = (hidden[0].reshape(-1, 32) @ site.router.weight.T)[torch.from_numpy(own[0])]
    torch.testing.assert_close(found[0][0], mean_log_distribution(scores), rtol=1e-4, atol=1e-5)


def test_masked_routing_does_not_change_what_is_compared_in_the_first_layer():
    model, batch = tiny_model("olmoe"), tiny_batches((2,))[0]
    free = measured(model, batch, range(2))
    with MaskedRouting(find_sites(model), ExpertChoice.of([(0, 1), (0, 2)])).step(None):
        masked = measured(model, batch, range(2))
    assert torch.equal(free[0][0], masked[0][0])
    assert "forward" not in vars(find_sites(model)[0].router)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_routers_alone_in_a_router_step_and_experts_alone_in_the_others(dtype):
    model, batch = tiny_model("olmoe").to(dtype).train(), tiny_batches((4,))[0]
    sites = find_sites(model)
    learning = LearningWeights(model, sites, ExpertChoice.of(EXPERTS), Learn.SELECTED, router_parameters(sites))
    inputs = BatchCollator(0)([ExampleRows([batch])[i] for i in range(4)])
    paired = PairedRouting.of(sites, [batch])
    routers = {name for name, _ in model.named_parameters() if ".gate." in name}
    for turn in (Turn.ROUTERS, Turn.EXPERTS, Turn.ROUTERS):
        learning.activate(batch.batch_id, turn)
        model.zero_grad()
        with paired.looking(inputs, learning=True):
            logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
        loss = consistency(batch.pairs, paired.routing)
        assert loss.dtype == torch.float32
        (loss if turn is Turn.ROUTERS else logits.float().square().mean()).backward()
        reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == (routers if turn is Turn.ROUTERS else {n for n in reached if ".experts." in n})
        assert reached
        active = [owned for owned in (*learning.rows, *learning.routers) if owned.active]
        assert active == (learning.routers if turn is Turn.ROUTERS else learning.rows)


def test_no_gradient_flows_through_the_safe_prompt():
    safe, unsafe = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    routing = {0: (mean_log_distribution(safe),), 1: (mean_log_distribution(unsafe),)}
    consistency([(0, 1)], routing).backward()
    assert safe.grad is None
    assert unsafe.grad.any()


# --- the run


def test_steps_alternate_and_say_what_they_taught_and_every_batch_is_verified_in_both(undisturbed):
    run, sink, _ = undisturbed
    assert [r.kind for r in sink.records] == ["experts", "routers"] * 2 + ["routers", "experts"] * 2
    assert all(r.verified for r in sink.records)
    order = [batch_order(range(4), run.seed, epoch, True) for epoch in (0, 1)]
    assert [r.batch_idx for r in sink.records] == order[0] + order[1]
    assert all(r.consistency_loss > 0 and math.isfinite(r.loss) for r in sink.records)


def test_the_recorded_loss_of_the_first_steps_is_the_batch_s_own(undisturbed, olmoe):
    run, sink, _ = undisturbed
    model = transformers.AutoModelForCausalLM.from_pretrained(olmoe)
    first = sink.records[0]
    assert first.consistency_loss == pytest.approx(by_hand(model, run.batches[first.batch_idx]), rel=1e-3)


def test_an_expert_step_moves_chosen_experts_and_a_router_step_moves_routers_only(olmoe, tmp_path):
    model, moved = None, []

    class Watching(ListSink):
        def record_step(self, record):
            super().record_step(record)
            now = {name: p.detach().clone() for name, p in model.named_parameters()}
            moved.append(changed(self.before, now))
            self.before = now

    from worker import training

    sink, build_trainer = Watching(), training.build_trainer

    def building(run, loaded, *args, **kwargs):
        nonlocal model
        model = loaded.model
        sink.before = {name: p.detach().clone() for name, p in model.named_parameters()}
        return build_trainer(run, loaded, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_trainer", building)
        train(tiny_run(olmoe, tmp_path, routers={"learning_rate": 0.05}, epochs=1), sink)
    for record, found in zip(sink.records, moved, strict=True):
        if record.kind == "routers":
            assert found == {(f"model.layers.{layer}.mlp.gate.weight", None) for layer in range(3)}
            assert record.learning_rate == 0.05
        else:
            assert {(int(name.split(".")[2]), expert) for name, expert in found} == set(EXPERTS)
            assert record.learning_rate == 1e-2


def test_router_steps_bring_the_routing_of_counterparts_together(olmoe, tmp_path):
    sink = ListSink()
    train(tiny_run(olmoe, tmp_path, routers={"learning_rate": 0.02}, epochs=6, batches=tiny_batches((4,))), sink)
    assert [r.kind for r in sink.records] == ["experts", "routers"] * 3
    assert sink.records[-1].consistency_loss < 0.8 * sink.records[0].consistency_loss


def test_without_the_mode_routers_stay_bit_identical_and_nothing_is_measured(undisturbed, olmoe, tmp_path):
    _, _, trained = undisturbed
    sink = ListSink()
    result = train(tiny_run(olmoe, tmp_path, epochs=1), sink)
    before = weights(olmoe)
    assert not [name for name, _ in changed(before, weights(result.model_dir)) if ".gate." in name]
    assert {(r.kind, r.consistency_loss) for r in sink.records} == {("experts", None)}
    gates = {name for name, expert in changed(before, weights(trained.model_dir)) if expert is None}
    assert gates == {f"model.layers.{layer}.mlp.gate.weight" for layer in range(3)}  # and nothing else beside experts


@pytest.mark.parametrize("stop_after", [2, 5])  # after a router step, and after another in the second epoch
def test_stopped_and_resumed_is_undisturbed(undisturbed, olmoe, tmp_path, stop_after):
    _, whole, expected = undisturbed
    sink = ListSink(stop_after)
    train(tiny_run(olmoe, tmp_path, routers={}), sink)
    sink.stop_after = None
    result = train(tiny_run(olmoe, tmp_path, routers={}), sink)
    assert timeless(sink.records) == timeless(whole.records)
    assert result.manifest_sha256 == expected.manifest_sha256


def test_a_batch_in_small_forwards_has_the_same_loss(undisturbed, olmoe, tmp_path):
    _, sink, _ = undisturbed
    parts = ListSink()
    train(tiny_run(olmoe, tmp_path, micro_batch_size=1, epochs=1, routers={}), parts)
    for whole, cut in zip(sink.records, parts.records, strict=False):
        assert cut.consistency_loss == pytest.approx(whole.consistency_loss, rel=1e-3)
        assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-2)
        assert cut.loss == pytest.approx(whole.loss, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "full", "experts": None}, "must be `selected`"),
        ({"adapter": {"rank": 2}}, "leave adapter null"),
        ({"shard_weights": True}, "leave shard_weights off"),
        ({"preserve_batches": False}, "leave preserve_batches on"),
        ({"routers": {"learning_rate": 0.0}}, "learning_rate is 0.0"),
        ({"batches": tuple(dataclasses.replace(b, pairs=()) for b in tiny_batches())}, "strategy `paired`"),
    ],
)
def test_routers_that_cannot_learn_in_turn_say_why(olmoe, tmp_path, changes, said):
    with pytest.raises(InvalidInput, match=said):
        train(tiny_run(olmoe, tmp_path, **{"routers": {}} | changes), ListSink())


# --- families


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_s_routers_are_reached_or_refused_by_name(family: Family) -> None:
    if not hasattr(transformers, family.config) and not family.required:
        pytest.skip(f"transformers {transformers.__version__} has no {family.config}")
    with torch.device("meta"):
        said = refusals(usable_sites(build_skeleton(family.build_config())))  # as a scan asks it
    assert ("routers" in said) is (family.name in HIDDEN)
    with one_thread():
        model = build(family).train()
        sites = find_sites(model)
        if family.name in HIDDEN:
            with pytest.raises(NotSupported, match=type(sites[0].router).__name__):
                router_parameters(sites)
            return
        learning = LearningWeights(
            model, sites, ExpertChoice.of([(family.layers[0], 0)]), Learn.SELECTED, router_parameters(sites)
        )
        learning.activate(None, Turn.ROUTERS)
        scores = RouterScores(sites)
        ids = torch.arange(2, 50).reshape(2, 24)
        mask = torch.ones_like(ids)
        mask[0, 15:] = 0
        with scores.watching():
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        safe, unsafe = scores.routing(mask.bool())
        consistency([(0, 1)], {0: safe, 1: unsafe}).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    own = {id(p) for site in sites for p in site.router.parameters()}
    assert {name for name, p in model.named_parameters() if p.grad is not None and id(p) not in own} == set()
    assert len(reached) >= len({id(site.router) for site in sites})  # every router, at least one weight of each
    learning.optimizer(lr=0.1, weight_decay=0.1).step()
    assert math.isfinite(learning.clip(1.0))


def test_alone_among_ranks_a_process_hears_only_itself():
    paired = PairedRouting.of(find_sites(tiny_model("olmoe")), tiny_batches((2,)))
    batch_id = next(iter(paired.pairs))
    paired.routing = {0: (torch.log(torch.tensor([0.5, 0.5])),), 1: (torch.log(torch.tensor([0.25, 0.75])),)}
    assert paired.loss(Ranks(), batch_id) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert paired.routing == {}
