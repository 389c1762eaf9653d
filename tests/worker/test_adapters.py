"""Adapters of the chosen experts only: what is not chosen stays bit for bit, and what comes out is a plain model."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from backend.domain.errors import InvalidInput, NotSupported
from tests.worker.families import FAMILIES, Family, build
from tests.worker.test_families import one_thread
from tests.worker.test_training import EXPERTS
from tests.worker.tiny import save_tiny, tiny_model
from tests.worker.tiny_runs import ListSink, changed, timeless, tiny_batches, tiny_run, weights
from worker.abilities import refusals
from worker.adapters import ADAPTER_DIR, AdaptedExperts, Adapter
from worker.checkpoints import checkpoint_dir, read_manifest
from worker.masking import ExpertChoice
from worker.models import build_skeleton, usable_sites
from worker.runs import TrainingRun
from worker.sites import find_sites
from worker.training import train

SMALL = {"rank": 2, "alpha": 4.0}
NOT_ADAPTED = {"dbrx"}


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("org") / "olmoe", "olmoe")


@pytest.fixture(scope="module")
def undisturbed(olmoe, tmp_path_factory):
    run, sink = tiny_run(olmoe, tmp_path_factory.mktemp("undisturbed"), adapter=SMALL), ListSink()
    return run, sink, train(run, sink)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


@pytest.mark.parametrize("family", EXPERTS)
def test_after_training_only_the_chosen_experts_matrices_differ_by_a_single_bit(family, tmp_path):
    model = save_tiny(tmp_path / "model", family)
    result = train(tiny_run(model, tmp_path / "run", experts=EXPERTS[family], adapter=SMALL), ListSink())
    before, after = weights(model), weights(result.model_dir)
    wanted = {(layer, expert) for layer, expert in EXPERTS[family]}
    found = {(int(name.split(".")[2]), expert) for name, expert in changed(before, after)}
    assert found == wanted
    for name, old in before.items():
        for expert in range(len(old)) if ".experts." in name else ():
            if (int(name.split(".")[2]), expert) not in wanted:
                assert torch.equal(bits(old[expert]), bits(after[name][expert]))  # also the sign of a zero
    assert all(name.endswith(("gate_up_proj", "down_proj")) for name, _ in changed(before, after))


def test_the_loss_of_the_first_step_is_that_of_whole_rows_and_later_ones_fall(undisturbed, olmoe, tmp_path):
    _, sink, _ = undisturbed
    rows = ListSink()
    train(tiny_run(olmoe, tmp_path, epochs=1), rows)
    assert sink.records[0].loss == rows.records[0].loss  # an adapter starts as nothing
    assert sink.records[-1].loss < sink.records[3].loss
    assert all(r.verified for r in sink.records)


def test_the_adapter_beside_the_model_is_peft_s_own_and_gives_the_same_weights(undisturbed, olmoe):
    from peft import PeftModel

    run, _, result = undisturbed
    folder = run.out_dir / ADAPTER_DIR
    assert read_manifest(folder).sha256 == result.adapter_sha256
    assert read_manifest(folder).facts["adapter"] == SMALL
    assert {p.name for p in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert str(olmoe.parent.parent) not in (folder / "adapter_config.json").read_text()  # no path of this machine
    peft_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(olmoe), folder)
    merged = peft_model.merge_and_unload().state_dict()
    ours = weights(result.model_dir)
    assert merged.keys() == ours.keys()
    assert all(torch.equal(merged[name], ours[name]) for name in ours)


@pytest.mark.parametrize("stop_after", [2, 5])  # before any regular checkpoint, and inside the second epoch
def test_stopped_and_resumed_is_undisturbed(undisturbed, olmoe, tmp_path, stop_after):
    _, whole, expected = undisturbed
    sink = ListSink(stop_after)
    stopped = train(tiny_run(olmoe, tmp_path, adapter=SMALL), sink)
    assert stopped.model_dir is None
    held = checkpoint_dir(tmp_path, stop_after)
    assert not (held / "model.safetensors").exists()  # a checkpoint holds the factors, not the model again
    assert (held / "adapter_model.safetensors").is_file()
    sink.stop_after = None
    result = train(tiny_run(olmoe, tmp_path, adapter=SMALL), sink)
    assert result.resumed_from == stop_after
    assert timeless(sink.records) == timeless(whole.records)
    assert (result.manifest_sha256, result.adapter_sha256) == (expected.manifest_sha256, expected.adapter_sha256)
    again = train(tiny_run(olmoe, tmp_path, adapter=SMALL), ListSink())
    assert (again.n_steps, again.adapter_sha256) == (8, expected.adapter_sha256)


def test_a_batch_in_small_forwards_gives_the_same_step(undisturbed, olmoe, tmp_path):
    _, sink, _ = undisturbed
    parts = ListSink()
    train(tiny_run(olmoe, tmp_path, micro_batch_size=3, epochs=1, adapter=SMALL), parts)
    for whole, cut in zip(sink.records, parts.records, strict=False):
        assert cut.loss == pytest.approx(whole.loss, rel=1e-4)
        assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-3)


def adapted(family="olmoe", experts=((0, 1), (2, 3)), **settings):
    model = tiny_model(family).train()
    return model, AdaptedExperts(model, find_sites(model), ExpertChoice.of(experts), Adapter(**settings))


def backward(model):
    model.zero_grad()
    model(input_ids=torch.arange(2, 386).reshape(6, 64), use_cache=False).logits.square().mean().backward()


def test_with_a_per_batch_set_a_step_moves_the_factors_and_the_state_of_its_own_experts_only():
    model, learning = adapted(experts={"one": [(0, 1)], "two": [(0, 2), (1, 4)]}, rank=2)
    optimizer = learning.optimizer(lr=0.1, weight_decay=0.5)

    def step(batch_id):
        learning.activate(batch_id)
        backward(model)
        learning.clip(1.0)
        optimizer.step()

    step("one")
    step("two")
    held = {id(o): [o.of(o.parameter, e).clone() for e in o.experts] for o in learning.rows}
    state = [{k: v.clone() for k, v in optimizer.state[o.parameter].items()} for o in learning.rows]
    step("one")
    for owned, before in zip(learning.rows, state, strict=True):
        now = optimizer.state[owned.parameter]
        for place, expert in enumerate(owned.experts):
            moved = not torch.equal(bits(owned.of(owned.parameter, expert)), bits(held[id(owned)][place]))
            assert moved is (owned.experts == (1, 2) and expert == 1)
            assert torch.equal(now["exp_avg"][place], before["exp_avg"][place]) is not moved
            assert now["step"][place] == before["step"][place] + moved
    everyone = [o.of(o.parameter, e) for o in learning.rows for e in range(8) if e not in o.wanted]
    assert not any(part.any() for part in everyone)  # the factors of all others are zero, and stay so


def test_the_optimizer_keeps_two_numbers_for_each_of_the_chosen_factors_and_nothing_else():
    model, learning = adapted(rank=2)
    backward(model)
    optimizer = learning.optimizer(lr=0.1, weight_decay=0.0)
    optimizer.step()
    numbers = sum(v.numel() for state in optimizer.state.values() for k, v in state.items() if k != "step")
    shapes = [t.parameter.shape[1:] for s in find_sites(tiny_model("olmoe")) for t in s.tensors if s.spec.layer != 1]
    assert numbers == sum(2 * 2 * sum(shape) for shape in shapes)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }


def test_an_expert_starts_from_the_same_factors_whichever_others_are_chosen():
    _, few = adapted(experts=[(0, 1)])
    _, many = adapted(experts=[(0, 0), (0, 1), (0, 7)])
    for one, other in zip(few.rows, many.rows, strict=True):
        assert torch.equal(one.of(one.parameter, 1), other.of(other.parameter, 1))


def test_factors_of_a_bfloat16_model_are_float32_and_merging_keeps_its_type():
    model = tiny_model("olmoe").to(torch.bfloat16).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    learning = AdaptedExperts(model, find_sites(model), ExpertChoice.of([(1, 2)]), Adapter(rank=2))
    backward(model)
    assert {owned.parameter.dtype for owned in learning.rows} == {torch.float32}
    learning.optimizer(lr=0.1, weight_decay=0.0).step()
    learning.merge()
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    differs = {name for name in before if not torch.equal(bits(before[name]), bits(after[name]))}
    assert differs == {f"model.layers.1.mlp.experts.{name}_proj" for name in ("gate_up", "down")}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_adapted_expert_by_expert_or_refused_by_name(family: Family) -> None:
    if not hasattr(transformers, family.config) and not family.required:
        pytest.skip(f"transformers {transformers.__version__} has no {family.config}")
    with torch.device("meta"):
        said = refusals(usable_sites(build_skeleton(family.build_config())))  # as a scan asks it
    assert ("adapter" in said) is (family.name in NOT_ADAPTED)
    with one_thread():
        model = build(family).train()
        chosen = [(layer, expert) for layer in sorted(set(family.layers)) for expert in (0, 2, 5)]
        sites = find_sites(model)
        if family.name in NOT_ADAPTED:
            with pytest.raises(NotSupported, match=r"DbrxExperts keeps all experts of a layer in one matrix"):
                AdaptedExperts(model, sites, ExpertChoice.of(chosen), Adapter(rank=2))
            return
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        learning = AdaptedExperts(model, sites, ExpertChoice.of(chosen), Adapter(rank=2))
        optimizer = learning.optimizer(lr=0.1, weight_decay=0.1)
        for _ in range(2):
            backward(model)
            optimizer.step()
        learning.merge()
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    moved = set()
    for name, old in before.items():
        fused = next((t for s in sites for t in s.tensors if t.name == name and old.dim() == 3), None)
        if fused is None:
            assert torch.equal(bits(old), bits(after[name])), name
        else:
            moved |= {e for e in range(len(old)) if not torch.equal(bits(old[e]), bits(after[name][e]))}
    assert moved == {0, 2, 5}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "full", "experts": None}, "must be `selected`, not `full`"),
        ({"shard_weights": True}, "cannot be trained with shard_weights"),
        ({"adapter": {"rank": 0}}, "rank is 0"),
        ({"adapter": {"alpha": float("nan")}}, "alpha is nan"),
    ],
)
def test_an_adapter_that_cannot_be_trained_says_why(olmoe, tmp_path, changes, said):
    with pytest.raises(InvalidInput, match=said):
        train(tiny_run(olmoe, tmp_path, **{"adapter": SMALL} | changes), ListSink())


def test_an_adapter_is_part_of_what_makes_a_run_and_its_absence_is_not(olmoe, tmp_path):
    plain = TrainingRun(str(olmoe), tiny_batches(), tmp_path)
    runs = [plain, *(TrainingRun(str(olmoe), tiny_batches(), tmp_path, adapter=Adapter(rank)) for rank in (4, 8))]
    assert len({run.digest for run in runs}) == 3
