"""A whole analysis with vLLM, from the stored plan to the stored figures, beside the same one with transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.settings import get_settings
from backend.store import contexts
from backend.store import tables as t
from backend.store.engine import reading, writing
from backend.store.verify import verify_analysis
from tests.vllm.small import save_small
from tests.worker.study import Study, open_study
from worker.contexts import run_context
from worker.scanning import probe, scan


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    monkeypatch.setenv("ROUTEPRINT_HOME", str(tmp_path))
    monkeypatch.setenv("ROUTEPRINT_DEVICE", "cpu")
    get_settings.cache_clear()
    opened = open_study(tmp_path)
    save_small(get_settings().models_path / "small" / "qwen", "qwen3_moe")
    scan()
    yield Study(opened.engine, opened.dataset_id, "small/qwen")
    get_settings.cache_clear()


def stored(study: Study, id_: str) -> list[Any]:
    samples = study.rows(t.BatchSample, analysis_id=id_)
    routing = study.rows(t.BatchRouting, analysis_id=id_)
    answers = study.rows(t.Answer, analysis_id=id_)
    return [
        [(s.batch_idx, s.in_batch_idx, s.row_id, s.prompt_digest, s.token_ids.tolist()) for s in samples],
        [(r.batch_idx, r.scope, r.counts.tolist(), r.tokens.tolist()) for r in routing],
        [(a.batch_idx, a.in_batch_idx, a.kind, a.text, a.token_ids.tolist()) for a in answers],
    ]


@pytest.mark.parametrize("max_new_tokens", [0, 6])
def test_an_analysis_with_vllm_stores_what_one_with_transformers_stores(study: Study, max_new_tokens: int) -> None:
    params: dict[str, Any] = {"scopes": ["prompt", "response", "last"], "max_new_tokens": max_new_tokens}
    ours = study.analyse(engine="transformers", **params)
    theirs = study.analyse(engine="vllm", **params, engine_options={"max_model_len": 256})
    assert stored(study, theirs) == stored(study, ours)
    assert all(r.weights is None for r in study.rows(t.BatchRouting, analysis_id=theirs))
    with reading(study.engine) as session:
        assert all(link.ok for link in verify_analysis(session, theirs))
    assert study.get(t.Analysis, theirs).environment["versions"]["vllm"].startswith("0.32")


def in_context(study: Study, analysis_id: str) -> list[Any]:
    with writing(study.engine) as session:
        analysis = session.get_one(t.Analysis, analysis_id)
        params = {"experts": [[1, 0], [2, 5]], "top_tokens": 5}
        context = contexts.create(session, "study", analysis, "prompt", params)
        context.status = "running"
        id_ = context.id
    run_context(id_, "job")
    return [
        study.get(t.Context, id_).result,
        [row.pairs.tolist() for row in study.rows(t.ContextSite, context_id=id_)],
        [(r.hits.tolist(), r.shares.tolist()) for r in study.rows(t.ContextExpert, context_id=id_)],
    ]


def test_experts_in_context_are_the_same_in_both_engines(study: Study) -> None:
    params: dict[str, Any] = {"scopes": ["prompt", "last"], "exclude_template_tokens": True}
    ours = study.analyse(engine="transformers", **params)
    theirs = study.analyse(engine="vllm", **params, engine_options={"max_model_len": 256})
    here, there = in_context(study, ours), in_context(study, theirs)
    assert here == there
    assert (here[0]["recounted"]["differing"], here[0]["dtype"]) == (0, "float32")


def test_a_worker_advertises_vllm_and_the_scan_says_which_models_it_can_measure(study: Study) -> None:
    assert probe()["engines"] == ["transformers", "vllm"]
    assert study.get(t.Model, "small/qwen").engines == ["transformers", "vllm"]
