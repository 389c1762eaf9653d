from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.domain.vocabulary import Scope
from tests.vllm.engines import LONGEST, N_NEW, Key, Pair, batch, counts, open_pair, prompt_ids, request
from tests.vllm.small import CONFIGS, save_small
from tests.worker.tiny import TEXTS
from worker.capture.engines import open_engine
from worker.capture.generation import end_ids
from worker.capture.vllm import VllmEngine
from worker.models import load_model
from worker.prompts import encode_answer


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = open_pair(save_small(tmp_path_factory.mktemp(request.param), request.param))
    yield pair
    pair.theirs.close()


def test_counts_are_those_of_the_transformers_engine(pair: Pair) -> None:
    tokenizer = pair.ours.words.tokenizer
    answers = [encode_answer(tokenizer, text) for text in reversed(TEXTS)]
    batches = [batch(TEXTS, answers), batch(TEXTS[2:6], [answers[0], None, answers[3], None])]
    ours, theirs = counts(pair.ours, batches), counts(pair.theirs, batches)
    assert theirs == ours
    assert all(np.sum(ours[scope][0]) > 0 for scope in ("prompt", "last", "response"))


def test_counts_without_template_tokens_are_those_of_the_transformers_engine(pair: Pair) -> None:
    answers = [encode_answer(pair.ours.words.tokenizer, text) for text in reversed(TEXTS)]
    asked = replace(request(pair.folder), exclude_template_tokens=True)
    ours = open_engine("transformers", asked)
    theirs = VllmEngine(pair.theirs._llm, pair.theirs.words, pair.theirs._shape, pair.theirs.place, asked)
    samples = batch(TEXTS, answers)
    own = [counts(engine, [samples]) for engine in (ours, theirs)]
    assert own[0] == own[1]
    whole = counts(pair.theirs, [samples])
    k = pair.theirs._shape.sites[0].top_k
    left_out = np.sum(whole["prompt"], axis=-1) - np.sum(own[1]["prompt"], axis=-1)  # [batch, sample, site]
    assert (left_out == 3 * k).all()
    assert (own[1]["last"], own[1]["response"]) == (whole["last"], whole["response"])
    [mine], [other] = (engine.measure([Key(0)], [samples]) for engine in (ours, theirs))
    assert [s.own.tolist() for s in mine.samples] == [s.own.tolist() for s in other.samples]


def test_samples_and_digests_are_the_same_and_weights_are_none(pair: Pair) -> None:
    samples = batch(TEXTS, [None] * len(TEXTS))
    [ours], [theirs] = (engine.measure([Key(7)], [samples]) for engine in (pair.ours, pair.theirs))
    for mine, other in zip(ours.samples, theirs.samples, strict=True):
        assert mine.token_ids.tolist() == other.token_ids.tolist()
        assert (mine.prompt_digest, mine.tokens, mine.truncated) == (other.prompt_digest, other.tokens, other.truncated)
    assert (theirs.batch_idx, theirs.batch_id) == (7, "b7")
    assert all(theirs.routing[scope].weights is None for scope in Scope)
    assert not any(sample.non_finite for sample in theirs.samples)


def test_answers_are_those_of_the_transformers_engine_and_so_are_their_counts(pair: Pair) -> None:
    prompts = prompt_ids(pair.ours, TEXTS)
    ours, theirs = pair.ours.answers(prompts, N_NEW), pair.theirs.answers(prompts, N_NEW)
    assert [ids.tolist() for ids in theirs] == [ids.tolist() for ids in ours]
    assert any(len(set(ids.tolist())) > 2 for ids in ours)
    measured = [counts(engine, [batch(TEXTS, ours)]) for engine in (pair.ours, pair.theirs)]
    assert measured[0] == measured[1]
    k = pair.theirs._shape.sites[0].top_k
    per_sample = np.array(measured[1]["response"])[0].sum(axis=-1)  # [sample, site]
    assert per_sample.tolist() == [[k * (len(ids) - 1)] * per_sample.shape[1] for ids in ours]


def test_an_answer_ends_where_the_model_ends_it(tmp_path: Path) -> None:
    loaded = load_model(save_small(tmp_path / "plain", "olmoe"), dtype="float32")
    unended = open_pair(tmp_path / "plain")
    prompts = prompt_ids(unended.ours, TEXTS)
    free = unended.theirs.answers(prompts, N_NEW)
    unended.theirs.close()
    assert max(len(ids) for ids in free) == N_NEW
    end = int(free[0][N_NEW // 2])  # a token that the first answer has in its middle now ends it
    settings = loaded.model.generation_config
    assert settings is not None
    settings.eos_token_id = [1, end]
    settings.repetition_penalty = 1.7  # the model's own wish, which would bend a greedy answer
    settings.save_pretrained(tmp_path / "plain")
    pair = open_pair(tmp_path / "plain")
    ours, theirs = pair.ours.answers(prompts, N_NEW), pair.theirs.answers(prompts, N_NEW)
    pair.theirs.close()
    assert pair.theirs._shape.ends == end_ids(load_model(tmp_path / "plain", dtype="float32")) == (1, end)
    assert [ids.tolist() for ids in theirs] == [ids.tolist() for ids in ours]
    assert theirs[0].tolist() == free[0][: free[0].tolist().index(end) + 1].tolist()


def test_prefix_caching_and_chunked_prefill_change_no_count(tmp_path: Path) -> None:
    chunk = 32
    pair = open_pair(save_small(tmp_path, "qwen3_moe"), max_num_batched_tokens=chunk, max_num_seqs=4, block_size=32)
    texts = [LONGEST * 3 + text for text in TEXTS]  # a long beginning that all prompts share
    prompts = prompt_ids(pair.ours, texts)
    assert min(len(ids) for ids in prompts) > 3 * chunk
    answers = pair.ours.answers(prompts, N_NEW)
    cached: list[int] = []
    generate = pair.theirs._llm.generate

    def spy(*args: object, **settings: object) -> object:
        outputs = generate(*args, **settings)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    pair.theirs._llm.generate = spy
    first, again = (counts(pair.theirs, [batch(texts, answers)]) for _ in range(2))
    pair.theirs.close()
    assert min(cached[len(texts) :]) >= chunk  # the second time every prompt came out of the cache in part
    assert first == again == counts(pair.ours, [batch(texts, answers)])


def test_a_sample_with_a_nan_is_marked_and_its_neighbours_are_not(tmp_path: Path) -> None:
    folder = save_small(tmp_path, "mixtral")
    poisoned = prompt_ids_of(folder, "Hi!")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][poisoned] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pair = open_pair(folder)
    [measured] = pair.theirs.measure([Key(0)], [batch(TEXTS, [None] * len(TEXTS))])
    pair.theirs.close()
    flags = [sample.non_finite for sample in measured.samples]
    assert flags == [poisoned in sample.token_ids for sample in measured.samples]
    assert any(flags)
    assert not all(flags)


def prompt_ids_of(folder: Path, text: str) -> int:
    """Return a token that this text has and some other text has not."""
    tokenizer = load_model(folder).tokenizer
    return int(tokenizer(text, add_special_tokens=False)["input_ids"][-1])
