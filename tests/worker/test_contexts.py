"""A context run on a small real study: its sums against the slow reference, and against the analysis' own counts."""

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from backend.domain.context import contributions
from backend.domain.errors import Conflict, NoTokens, ProvenanceBroken
from backend.domain.vocabulary import Pool
from backend.settings import get_settings
from backend.store import contexts, risks
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.worker import reference
from tests.worker.study import Study
from tests.worker.tiny import save_tiny, tiny_tokenizer
from worker import windows as window_sizes
from worker.contexts import run_context, token_texts, visible
from worker.models import load_model
from worker.scanning import scan

EXPERTS = [[layer, expert] for layer in range(3) for expert in range(8)]


@pytest.fixture(autouse=True)
def two_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_sizes, "WINDOW", 2)  # of three batches


def submit(study: Study, analysis_id: str, scope: str = "prompt", experts: list[list[int]] = EXPERTS) -> str:
    with writing(study.engine) as session:
        analysis = session.get_one(t.Analysis, analysis_id)
        context = contexts.create(session, "study", analysis, scope, {"experts": experts, "top_tokens": 20})
        context.status = "running"
        return context.id


def stored(study: Study, id_: str) -> list[Any]:
    """Return every stored number and word of a run."""
    run = study.get(t.Context, id_)
    known = study.get(t.ContextTokens, id_)
    return [
        (run.next_batch, run.done, run.result),
        [(row.site, row.pairs.tolist()) for row in study.rows(t.ContextSite, context_id=id_)],
        (known.ids.tolist(), known.occurrences.tolist(), known.texts),
        [(r.site, r.expert, r.hits.tolist(), r.shares.tolist()) for r in study.rows(t.ContextExpert, context_id=id_)],
    ]


def test_pairs_and_hits_are_those_of_the_slow_reference(study: Study) -> None:
    analysis = study.analyse()
    id_ = submit(study, analysis)
    assert run_context(id_, "job") == 3
    model = load_model(str(get_settings().models_path / "tiny" / "olmoe"), dtype="float32").model
    pairs: Counter[tuple[int, int, int, int]] = Counter()
    hits: Counter[tuple[int, int, int, int]] = Counter()
    for sample in study.rows(t.BatchSample, analysis_id=analysis):
        label = int(sample.label == "unsafe")
        ids = sample.token_ids.tolist()
        for site, of_tokens in enumerate(reference.chosen_experts(model, ids)):
            for token, experts in zip(ids, of_tokens, strict=True):
                hits.update((site, label, token, expert) for expert in experts)
                pairs.update((site, label, a, b) for a, b in combinations(sorted(experts), 2))
    for row in study.rows(t.ContextSite, context_id=id_):
        found = {(row.site, *map(int, where)): int(row.pairs[tuple(where)]) for where in np.argwhere(row.pairs)}
        assert found == {key: n for key, n in pairs.items() if key[0] == row.site}
    ids = study.get(t.ContextTokens, id_).ids
    for row in study.rows(t.ContextExpert, context_id=id_):
        found = {
            (row.site, int(code), int(ids[place]), row.expert): int(row.hits[code, place])
            for code, place in np.argwhere(row.hits)
        }
        assert found == {key: n for key, n in hits.items() if key[0] == row.site and key[3] == row.expert}


@pytest.mark.parametrize(
    ("scope", "params"),
    [
        ("prompt", {}),
        ("prompt", {"exclude_template_tokens": True, "system_prompt": "Be brief."}),
        ("response", {"scopes": ["prompt", "response"], "max_new_tokens": 6}),
        ("last", {"scopes": ["prompt", "last"]}),
    ],
)
def test_the_tokens_of_every_expert_add_up_to_the_risk_diff_of_the_analysis(
    study: Study, scope: str, params: dict[str, Any]
) -> None:
    analysis_id = study.analyse(**params)
    id_ = submit(study, analysis_id, scope)
    run_context(id_, "job")
    run, aggregate = study.get(t.Context, id_), study.get(t.AnalysisAggregate, (analysis_id, scope))
    recounted = run.result["recounted"]
    assert (recounted["batches"], recounted["differing"], recounted["differing_counts"]) == (3, 0, 0)
    assert run.result["dtype"] == "float32"
    assert (run.result["samples"], run.result["tokens"]) == (aggregate.samples.tolist(), aggregate.tokens.tolist())
    with reading(study.engine) as session:
        analysis = session.get_one(t.Analysis, analysis_id)
        found = contexts.expert_tokens(session, run)
        for pool in Pool:
            own = risks.over_all(session, analysis, scope, pool).table
            assert own is not None
            for one in found:
                parts = contributions(one.samples, one.tokens, one.hits, one.shares, pool)
                assert parts.risk_diff == own.risk_diff[one.site, one.expert]  # to the bit
                assert abs(parts.values.sum() - parts.risk_diff) < 1e-9
        for one in found:
            assert one.shares.sum(axis=1).tolist() == aggregate.rate_sums[:, one.site, one.expert].tolist()
    for row in study.rows(t.ContextSite, context_id=id_):
        rows = (row.pairs + row.pairs.transpose(0, 2, 1).astype(np.int64)).sum(axis=2)
        assert rows.tolist() == aggregate.counts[:, row.site].tolist()  # top-2: k - 1 is one


def test_a_label_without_counted_tokens_has_no_risk_diff_to_explain_and_is_not_zero(study: Study) -> None:
    analysis_id = study.analyse(scopes=["response"])  # only safe rows of the study have a response
    id_ = submit(study, analysis_id, "response")
    run_context(id_, "job")
    run = study.get(t.Context, id_)
    assert run.result["tokens"][0] > 0
    assert run.result["tokens"][1] == 0
    with reading(study.engine) as session:
        one = contexts.expert_tokens(session, run)[0]
    with pytest.raises(NoTokens, match="unsafe"):
        contributions(one.samples, one.tokens, one.hits, one.shares, Pool.MEAN)


def test_a_run_that_died_after_any_window_ends_with_the_same_bytes(study: Study) -> None:
    analysis = study.analyse()
    undisturbed, killed = submit(study, analysis), submit(study, analysis)
    run_context(undisturbed, "job")

    class PowerCutError(Exception):
        pass

    def dies(*_: object, **__: object) -> bool:
        raise PowerCutError

    save = contexts.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "save", dies)
        with pytest.raises(PowerCutError):
            run_context(killed, "job")
    assert study.get(t.Context, killed).next_batch == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "save", lambda *args: save(*args) if args[2] == 2 else dies())
        with pytest.raises(PowerCutError):
            run_context(killed, "job")
    assert study.get(t.Context, killed).next_batch == 2
    assert study.get(t.ContextTokens, killed).texts == []
    assert run_context(killed, "job") == 3
    assert stored(study, killed) == stored(study, undisturbed)
    assert run_context(killed, "job") == 3  # once more: nothing to do, nothing changes
    assert stored(study, killed) == stored(study, undisturbed)


def test_a_slower_worker_that_wakes_up_changes_nothing(study: Study) -> None:
    analysis = study.analyse()
    id_ = submit(study, analysis)
    run_context(id_, "job")
    before = stored(study, id_)
    with writing(study.engine) as session:
        run = session.get_one(t.Context, id_)
        pairs, tokens = contexts.load(session, run, risks.sites_of(session.get_one(t.Analysis, analysis)))
        pairs.pairs[0][:] = 99
        assert not contexts.save(session, id_, 2, pairs, tokens, {}, ())
    assert stored(study, id_) == before


def test_a_cancelled_run_counts_nothing_more(study: Study) -> None:
    id_ = submit(study, study.analyse())
    with writing(study.engine) as session:
        session.get_one(t.Context, id_).status = "cancelled"
    assert run_context(id_, "job") == 0
    assert study.rows(t.ContextSite, context_id=id_) == []


def one_count_moved(study: Study, analysis: str) -> None:
    row = study.get(t.BatchRouting, (analysis, 1, "prompt"))
    counts = row.counts.astype(np.int32)
    counts[3, 2, :2] += [1, -1]
    with writing(study.engine) as session:
        where = (t.BatchRouting.analysis_id == analysis) & (t.BatchRouting.batch_idx == 1)
        session.execute(update(t.BatchRouting).where(where).values(counts=counts.astype(np.uint32)))


def test_in_float32_a_count_that_differs_stops_the_run_and_names_the_batch(study: Study) -> None:
    analysis = study.analyse()
    one_count_moved(study, analysis)
    with pytest.raises(ProvenanceBroken, match=r"Batch 1: 2 of 192 counts of scope prompt .* float32"):
        run_context(submit(study, analysis), "job")


def test_in_a_shorter_format_counts_that_differ_are_reported(study: Study) -> None:
    analysis = study.analyse(dtype="bfloat16")
    one_count_moved(study, analysis)
    id_ = submit(study, analysis)
    run_context(id_, "job")
    result = study.get(t.Context, id_).result
    assert result["dtype"] == "bfloat16"
    expected = {"batches": 3, "differing": 1, "counts": 3 * 192, "differing_counts": 2, "non_finite": 0}
    assert result["recounted"] == expected


def test_batches_that_are_not_finite_are_left_out_as_in_the_analysis(study: Study) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    seen: dict[int, set[int]] = {}
    for sample in study.rows(t.BatchSample, analysis_id=study.analyse()):
        for token in sample.token_ids.tolist():
            seen.setdefault(token, set()).add(sample.batch_idx)
    token = min(token for token, batches in seen.items() if len(batches) == 1)
    path = get_settings().models_path / "tiny" / "olmoe" / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][token] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    scan()
    analysis = study.analyse()
    bad = sum(b.status == "non_finite" for b in study.rows(t.AnalysisBatch, analysis_id=analysis))
    assert bad == 1
    id_ = submit(study, analysis)
    run_context(id_, "job")
    run, aggregate = study.get(t.Context, id_), study.get(t.AnalysisAggregate, (analysis, "prompt"))
    assert (run.result["recounted"]["non_finite"], run.result["recounted"]["batches"]) == (bad, 3 - bad)
    assert run.result["tokens"] == aggregate.tokens.tolist()


def test_other_weights_are_refused(study: Study) -> None:
    analysis = study.analyse()
    save_tiny(get_settings().models_path / "tiny" / "olmoe", "olmoe", seed=9)
    scan()
    with pytest.raises(Conflict, match="not the ones that were analysed"):
        run_context(submit(study, analysis), "job")


def test_tokens_are_shown_as_the_tokenizer_means_them_with_white_space_made_visible() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(" the sea\n?", add_special_tokens=False)["input_ids"] + [3]
    assert "".join(token_texts(tokenizer, np.array(ids))) == "␣the␣sea⏎?<|user|>"
    half = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert "\ufffd" not in "".join(token_texts(tokenizer, np.array(half)))
    assert visible("a\x00\t\u202e") == "a\\u0000⇥\\u202e"
