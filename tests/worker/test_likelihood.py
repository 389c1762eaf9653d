import numpy as np
import pytest
import torch

from tests.worker.tiny import FAMILIES, TEXTS, tiny_model, tiny_tokenizer
from worker.likelihood import negative_log_likelihoods
from worker.models import as_loaded
from worker.prompts import encode_answer


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_in_groups_equal_those_taken_token_by_token(family: str) -> None:
    loaded = as_loaded(tiny_model(family), tiny_tokenizer())
    ids = [encode_answer(loaded.tokenizer, text) for text in TEXTS]
    pairs = [(ids[i], ids[(i + 3) % len(ids)]) for i in range(len(ids))]
    found = negative_log_likelihoods(loaded, [p for p, _ in pairs], [a for _, a in pairs])
    for (prompt, answer), nll in zip(pairs, found, strict=True):
        fed, total = prompt.tolist(), 0.0
        for token in answer.tolist():
            with torch.no_grad():
                total -= float(loaded.model(torch.tensor([fed])).logits[0, -1].double().log_softmax(0)[token])
            fed.append(token)
        assert nll == pytest.approx(total, rel=1e-4)


def test_an_empty_answer_has_no_surprise_and_a_repeated_call_the_same_bits() -> None:
    loaded = as_loaded(tiny_model("olmoe"), tiny_tokenizer())
    prompts = [encode_answer(loaded.tokenizer, text) for text in TEXTS]
    answers = [np.zeros(0, dtype=np.int32), *prompts[1:]]
    found = negative_log_likelihoods(loaded, prompts, answers)
    assert found[0] == 0
    assert (found == negative_log_likelihoods(loaded, prompts, answers)).all()
