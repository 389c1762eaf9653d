import numpy as np
import pytest

from backend.domain.risk import aggregate_batch_risk_diffs, calculate_risk_diff_per_batch
from backend.domain.vocabulary import Scope
from tests.worker import reference
from tests.worker.tiny import TEXTS, tiny_model, tiny_tokenizer
from worker.capture.mixed import process_mixed_batches
from worker.models import LoadedModel, as_loaded

SAFE = [f"{text} Please." for text in TEXTS[:6]]
UNSAFE = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hurt them."}], *TEXTS[2:7]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return as_loaded(tiny_model("olmoe"), tiny_tokenizer())


def test_mixed_batches_hold_safe_samples_first_in_the_order_they_were_listed(loaded: LoadedModel) -> None:
    batches = process_mixed_batches(loaded, loaded.tokenizer, SAFE, UNSAFE, batch_size=4, safe_ratio=0.5)
    assert [b["batch_idx"] for b in batches] == [0, 1, 2]
    assert [o["prompt"] for b in batches for o in b["batch_outputs"] if o["label"] == "safe"] == SAFE
    assert batches[0]["batch_outputs"][2]["prompt"] == "Hurt them."
    for batch in batches:
        assert batch["safe_indices"] == [0, 1]
        assert batch["unsafe_indices"] == [2, 3]
        assert [o["in_batch_idx"] for o in batch["batch_outputs"]] == [0, 1, 2, 3]
        assert all(o["generated_text"] is None for o in batch["batch_outputs"])
        assert batch["layers"] == [0, 1, 2]


def test_mixed_batches_carry_the_counts_of_the_slow_reference(loaded: LoadedModel) -> None:
    batches = process_mixed_batches(loaded.model, loaded.tokenizer, SAFE, UNSAFE, batch_size=6)
    for batch in batches:
        for i, routing in zip(batch["safe_indices"], batch["safe_routings"], strict=True):
            chat = [{"role": "user", "content": batch["batch_outputs"][i]["prompt"]}]
            ids = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            chosen = reference.chosen_experts(loaded.model, ids)
            assert routing.tolist() == reference.count(chosen, range(len(ids)), 8)


def test_mixed_batches_can_leave_out_what_the_chat_template_adds(loaded: LoadedModel) -> None:
    whole, own = (
        process_mixed_batches(loaded, loaded.tokenizer, SAFE, UNSAFE, 12, exclude_template_tokens=own)
        for own in (False, True)
    )
    for before, after in zip(whole[0]["safe_routings"], own[0]["safe_routings"], strict=True):
        assert (before.sum(axis=1) - after.sum(axis=1)).tolist() == [2 * 3] * 3  # top-2, three template tokens


def test_risk_functions_of_the_original_names_take_mixed_batches(loaded: LoadedModel) -> None:
    batches = process_mixed_batches(loaded, loaded.tokenizer, SAFE, UNSAFE, batch_size=4)
    per_batch = [calculate_risk_diff_per_batch(batch, num_experts_per_tok=2) for batch in batches]
    total = aggregate_batch_risk_diffs(per_batch)
    assert total["n_batches"] == 3
    assert np.abs(total["risk_diff"]).max() > 0
    np.testing.assert_allclose(np.reshape(total["risk_diff"], (3, 8)).sum(axis=1), 0, atol=1e-9)


def test_with_new_tokens_the_model_answers_and_the_response_is_counted(loaded: LoadedModel) -> None:
    [batch] = process_mixed_batches(
        loaded, loaded.tokenizer, SAFE, UNSAFE, batch_size=12, scope=Scope.RESPONSE, max_new_tokens=5
    )
    assert all(isinstance(o["generated_text"], str) for o in batch["batch_outputs"])
    totals = [r.sum(axis=1).tolist() for r in batch["safe_routings"] + batch["unsafe_routings"]]
    assert all(total == [total[0]] * 3 and total[0] <= 2 * 4 for total in totals)  # top-2, last token has no routing
    assert max(total[0] for total in totals) == 8
