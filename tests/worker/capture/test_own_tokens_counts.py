"""Counts without what the chat template added, from prompt to stored batch."""

from dataclasses import replace

import numpy as np
import pytest

from backend.domain.counts import BatchCounts, check_counts
from backend.domain.measured import MeasuredBatch
from backend.domain.prompts import Message
from backend.domain.vocabulary import LABELS, Label, Scope
from backend.store import tables as t
from backend.store.engine import reading
from backend.store.verify import verify_analysis
from tests.worker import reference
from tests.worker.capture.test_transformers import N_EXPERTS, Key, batch_of, family, measure, sample
from tests.worker.study import Study
from tests.worker.tiny import FAMILIES, tiny_model, tiny_tokenizer
from worker.capture.transformers import TransformersEngine
from worker.models import LoadedModel, as_loaded
from worker.prompts import encode_prompt


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return as_loaded(tiny_model(request.param), tiny_tokenizer())


def both(loaded: LoadedModel, **settings: object) -> tuple[MeasuredBatch, MeasuredBatch]:
    whole = measure(loaded, batch_of(loaded), **settings)
    return whole, measure(loaded, batch_of(loaded), exclude_template_tokens=True, **settings)


def test_own_counts_equal_the_slow_reference_at_the_tokens_of_the_message(loaded: LoadedModel) -> None:
    _, own = both(loaded)
    for item, counts, tokens in zip(
        batch_of(loaded), own.routing[Scope.PROMPT].counts, own.routing[Scope.PROMPT].tokens, strict=True
    ):
        ids = encode_prompt(loaded.tokenizer, item.messages).ids.tolist()
        inside = range(1, len(ids) - 2)  # <|user|> before it, <|end|> and <|assistant|> behind it
        assert tokens == len(inside) == len(loaded.tokenizer(item.messages[0].content)["input_ids"])
        chosen = reference.chosen_experts(loaded.model, ids)
        assert counts.tolist() == reference.count(chosen, inside, N_EXPERTS[family(loaded)])


def test_own_and_template_tokens_together_are_all_tokens_and_other_scopes_stay(loaded: LoadedModel) -> None:
    whole, own = both(loaded)
    rest = whole.routing[Scope.PROMPT].counts - own.routing[Scope.PROMPT].counts
    tokens = whole.routing[Scope.PROMPT].tokens - own.routing[Scope.PROMPT].tokens
    labels = np.array([LABELS.index(s.label) for s in whole.samples], dtype=np.int8)
    top_k = [site.spec.top_k for site in loaded.sites]
    check_counts(BatchCounts(labels, tokens, rest), top_k)  # every template token reached its k experts as well
    check_counts(BatchCounts(labels, own.routing[Scope.PROMPT].tokens, own.routing[Scope.PROMPT].counts), top_k)
    assert tokens.tolist() == [3] * len(tokens)
    for scope in (Scope.LAST, Scope.RESPONSE):
        np.testing.assert_array_equal(whole.routing[scope].counts, own.routing[scope].counts)
        np.testing.assert_array_equal(whole.routing[scope].weights, own.routing[scope].weights)
    for mine, other in zip(whole.samples, own.samples, strict=True):
        assert (mine.token_ids.tolist(), mine.prompt_digest) == (other.token_ids.tolist(), other.prompt_digest)
        assert mine.own is None
        assert other.own is not None
        assert other.own.sum() == other.tokens - 3


def test_a_cut_inside_the_message_makes_the_last_prompt_token_one_of_its_own(loaded: LoadedModel) -> None:
    whole, own = both(loaded, max_length=6)
    for all_tokens, own_tokens, cut in zip(
        whole.routing[Scope.PROMPT].tokens, own.routing[Scope.PROMPT].tokens, own.samples, strict=True
    ):
        assert all_tokens - own_tokens == (1 if cut.truncated else 3)
    assert {s.truncated for s in own.samples} == {True, False}


def test_a_message_without_words_counts_no_token_and_still_goes_through_the_model(loaded: LoadedModel) -> None:
    batch = batch_of(loaded)
    batch[1] = replace(batch[1], messages=(Message("user", ""),))
    measured = measure(loaded, batch, exclude_template_tokens=True)
    assert measured.routing[Scope.PROMPT].tokens[1] == 0
    assert not measured.routing[Scope.PROMPT].counts[1].any()
    assert measured.routing[Scope.LAST].tokens[1] == 1
    assert measured.samples[1].tokens == 3


def test_a_nan_at_a_template_token_still_marks_its_sample(loaded: LoadedModel) -> None:
    import torch

    broken = as_loaded(tiny_model(family(loaded)), loaded.tokenizer)
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[2] = float("nan")  # <|system|>
    batch = [sample(i, "Hi!", Label.SAFE, broken) for i in range(2)]
    batch[1] = replace(batch[1], messages=(Message("system", ""), *batch[1].messages))
    engine = TransformersEngine(broken, exclude_template_tokens=True)
    [measured] = engine.measure([Key(0, "b0")], [batch])
    assert [s.non_finite for s in measured.samples] == [False, True]


def test_an_analysis_without_template_tokens_is_stored_with_the_tokens_that_count(study: Study) -> None:
    whole = study.analyse(scopes=["prompt", "last"])
    own = study.analyse(scopes=["prompt", "last"], exclude_template_tokens=True, system_prompt="Be brief.")
    with reading(study.engine) as session:
        assert all(link.ok for link in verify_analysis(session, own))
    here, there = (study.rows(t.BatchRouting, analysis_id=id_, scope="prompt") for id_ in (whole, own))
    assert [row.tokens.tolist() for row in there] == [(row.tokens - 3).tolist() for row in here]
    assert all(s.own is None for s in study.rows(t.BatchSample, analysis_id=whole))
    for found in study.rows(t.BatchSample, analysis_id=own):
        assert len(found.own) == found.tokens
        assert found.own.sum() < found.tokens - 3
