"""The stage `statistics` on a real database: what it stores is what the domain's functions say of the stored counts."""

import subprocess
import sys
import tracemalloc
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from backend.domain.errors import Conflict
from backend.domain.statistics.baselines import baselines
from backend.domain.statistics.bootstrap import bootstrap_intervals
from backend.domain.statistics.context import drift, load
from backend.domain.statistics.examination import FIGURES
from backend.domain.statistics.permutation import permutation_test
from backend.domain.statistics.samples import samples_of
from backend.domain.statistics.stability import choice_by_t, stability
from backend.domain.statistics.summary import plain
from backend.domain.vocabulary import Pool, Site
from backend.store import jobs, risks, writes
from backend.store import statistics as stored_statistics
from backend.store import tables as t
from backend.store.arrays import pack
from backend.store.counted import counted_batches
from backend.store.engine import reading, writing
from tests.worker.study import Study
from worker import statistics as stage

QUICK = {"n_permutations": 499, "n_resamples": 199, "n_stability": 20, "n_splits": 6}


def ask(study: Study, analysis_id: str, scope: str = "prompt", pool: str = "mean", **asked: Any) -> str:
    """Store statistics that a worker has just begun, and return their id."""
    with writing(study.engine) as session:
        analysis = session.get_one(t.Analysis, analysis_id)
        stored, _ = stored_statistics.request_once(session, analysis, scope, pool, QUICK | asked)
        writes.start(session, t.Statistics, stored.id)
        return stored.id


def found(study: Study, id_: str) -> tuple[t.Statistics, dict[str, np.ndarray]]:
    with writing(study.engine) as session:
        writes.finish(session, t.Statistics, id_, "succeeded")
    with reading(study.engine) as session:
        stored = session.get_one(t.Statistics, id_)
        return stored, stored_statistics.figures_of(stored)


def everything(study: Study, analysis_id: str) -> dict[str, Any]:
    """All stored samples of an analysis at once, read in the plainest way."""
    batches = study.rows(t.BatchRouting, analysis_id=analysis_id, scope="prompt")
    samples = study.rows(t.BatchSample, analysis_id=analysis_id)
    groups = {row.row_idx: row.group for row in study.rows(t.PromptRow, dataset_id=study.dataset_id)}
    return {
        "counts": np.concatenate([batch.counts for batch in batches]).astype(np.int64),
        "tokens": np.concatenate([batch.tokens for batch in batches]).astype(np.int64),
        "labels": np.array([int(sample.label == "unsafe") for sample in samples]),
        "groups": [groups[sample.row_idx] for sample in samples],
        "token_ids": [sample.token_ids for sample in samples],
    }


@pytest.mark.parametrize("pool", list(Pool))
def test_what_is_stored_is_what_the_domain_says_of_the_stored_counts(study: Study, pool: Pool):
    analysis_id = study.analyse()
    id_ = ask(study, analysis_id, pool=pool)
    assert stage.run_statistics(id_, "job") == 24
    stored, figures = found(study, id_)
    analysis, all_of = study.get(t.Analysis, analysis_id), everything(study, analysis_id)
    sites, seed = [Site.from_dict(site) for site in analysis.sites], f"{analysis.plan_digest}-0"
    samples = samples_of(*(all_of[name] for name in ("counts", "tokens", "labels")), groups=all_of["groups"], pool=pool)

    test = permutation_test(samples, seed=seed, n_permutations=499)
    for name in ("difference", "t", "p", "p_max_t", "q"):
        np.testing.assert_array_equal(figures[name], getattr(test, name), err_msg=name)
    assert stored.summary["design"]["scheme"] == "sign_flips"  # every group is a contrast pair
    assert (stored.summary["design"]["n_units_both"], stored.summary["design"]["n_fixed"]) == (12, 0)
    assert stored.summary["critical_t"] == test.critical_t
    assert stored.summary["n_significant"] == int((test.p_max_t <= 0.05).sum())

    intervals = bootstrap_intervals(samples, seed=seed, n_resamples=199)
    np.testing.assert_array_equal(figures["ci_low"], intervals.low)
    np.testing.assert_array_equal(figures["ci_high"], intervals.high)
    np.testing.assert_array_equal(figures["standard_error"], intervals.standard_error)
    steady = stability(samples, choice_by_t(test.critical_t, "both"), seed=seed, n_resamples=20, n_splits=6)
    np.testing.assert_array_equal(figures["frequency"], steady.frequency)
    assert stored.summary["stability"]["jaccard"] == plain(steady.jaccard)
    assert stored.summary["baselines"] == plain(asdict(baselines(samples, all_of["token_ids"], seed=seed)))

    with reading(study.engine) as session:
        each = [diff for _, _, diff in risks.each_batch(session, analysis, "prompt", pool)]
    drifted = drift(np.stack(each), seed=seed)
    np.testing.assert_array_equal(figures["drift_slope"], drifted.slope)
    assert stored.summary["drift"]["p"] == plain(drifted.p)
    spread = load(all_of["counts"].sum(axis=0), int(all_of["tokens"].sum()), sites)
    np.testing.assert_array_equal(figures["load"], spread.relative)
    assert set(figures) == set(FIGURES)


def bytes_of(study: Study, id_: str) -> tuple[Any, ...]:
    stored, figures = found(study, id_)
    return stored.input_digest, stored.sha256, stored.summary, [pack(table) for table in figures.values()]


def test_statistics_that_were_broken_off_give_the_same_bytes_when_they_run_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    analysis_id = study.analyse()
    undisturbed = ask(study, analysis_id)
    stage.run_statistics(undisturbed, "job")
    with writing(study.engine) as session:  # the same request counts as answered, so the first one is put away
        session.get_one(t.Statistics, undisturbed).deleted_at = t.utcnow()
    id_ = ask(study, analysis_id)

    class PowerCut(BaseException):
        pass

    def cut(self: Any, name: str, done: int, total: int) -> None:
        if name == "stability":
            raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(stage._Teller, "examined", cut)
        with pytest.raises(PowerCut):
            stage.run_statistics(id_, "job")
    assert study.get(t.Statistics, id_).input_digest is None  # nothing half done is stored
    for _ in range(2):  # and doing it all twice changes nothing either
        stage.run_statistics(id_, "job")
    assert bytes_of(study, id_) == bytes_of(study, undisturbed)


def test_a_cancel_stops_the_computation_and_stores_nothing(study: Study, monkeypatch: pytest.MonkeyPatch):
    id_ = ask(study, study.analyse())
    told = stage._Teller.__call__
    seen: list[str] = []

    def cancel_in_the_middle(self: Any, part: str, done: int) -> None:
        seen.append(part)
        if part == "intervals":
            with writing(study.engine) as session:
                jobs.cancel(session, t.Statistics, id_)
        told(self, part, done)

    monkeypatch.setattr(stage._Teller, "__call__", cancel_in_the_middle)
    assert stage.run_statistics(id_, "job") == 0
    assert seen[-1] == "intervals"
    stored = study.get(t.Statistics, id_)
    assert (stored.status, stored.sha256, stored.summary) == ("cancelled", None, {})


def test_progress_names_the_parts_in_order_and_only_grows(study: Study, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(stage._Teller, "__call__", lambda self, part, done: seen.append((part, done)))
    stage.run_statistics(ask(study, study.analyse()), "job")
    parts = list(dict.fromkeys(part for part, _ in seen))
    assert parts == ["reading the counts", "permutations", "intervals", "stability", "baselines", "drift"]
    done = [number for _, number in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1000)


def test_a_batch_that_is_missing_is_named_and_nothing_is_computed(study: Study):
    analysis_id = study.analyse()
    id_ = ask(study, analysis_id)
    with writing(study.engine) as session:
        session.delete(session.get_one(t.AnalysisBatch, (analysis_id, 1)))
    with pytest.raises(Conflict, match="2 of 3 batches"):
        stage.run_statistics(id_, "job")


def test_a_batch_that_is_not_finite_is_left_out_and_counted(study: Study):
    analysis_id = study.analyse()
    with writing(study.engine) as session:
        session.get_one(t.AnalysisBatch, (analysis_id, 2)).status = "non_finite"
    id_ = ask(study, analysis_id)
    assert stage.run_statistics(id_, "job") == 16
    stored, figures = found(study, id_)
    assert stored.summary["n_batches"] == 2
    assert stored.summary["n_batches_non_finite"] == 1
    assert stored.summary["n_left_out_non_finite"] == 8
    assert stored.summary["drift"]["n_batches"] == 2
    rest = {name: value[:16] for name, value in everything(study, analysis_id).items()}
    samples = samples_of(rest["counts"], rest["tokens"], rest["labels"], groups=rest["groups"])
    seed = f"{study.get(t.Analysis, analysis_id).plan_digest}-0"
    np.testing.assert_array_equal(figures["p"], permutation_test(samples, seed=seed, n_permutations=499).p)


def test_a_scope_in_which_one_label_has_no_tokens_is_not_testable_but_has_its_load(study: Study):
    """Only some safe rows have a response, and no unsafe one."""
    analysis_id = study.analyse(scopes=["prompt", "response"])
    id_ = ask(study, analysis_id, scope="response")
    stage.run_statistics(id_, "job")
    stored, figures = found(study, id_)
    summary = stored.summary
    assert summary["design"]["scheme"] == "not_testable"
    assert summary["design"]["reason"].startswith("Not testable: no token of an unsafe sample was counted")
    for part in ("intervals", "stability", "baselines"):
        assert "unsafe sample" in summary[part]["reason"]
    assert (summary["n_safe"], summary["n_unsafe"], summary["n_left_out_without_tokens"]) == (6, 0, 18)
    assert np.isnan(figures["p"]).all()
    assert np.isfinite(figures["load"]).all()
    assert "two measured batches" in summary["drift"]["reason"]


def test_the_counts_of_the_samples_are_never_held_as_wide_integers(study: Study):
    """Counts of a prompt fit into a byte: all that is held at once is less than their int64 alone would be."""
    analysis_id, n, width = study.analyse(), 4000, 512
    analysis = study.get(t.Analysis, analysis_id)
    with reading(study.engine) as session:
        batch = next(counted_batches(session, analysis_id, "prompt"))
    counts = np.zeros((*batch.counts.shape[:2], width), dtype=np.uint8)
    counts[:, :, : batch.counts.shape[2]] = batch.counts
    wide = replace(batch, counts=counts)
    analysis.plan_summary = analysis.plan_summary | {"n_samples": n}
    analysis.sites = [site | {"n_experts": width} for site in analysis.sites]
    tracemalloc.start()
    gathered = stage._Gathered(analysis, "prompt", Pool.MEAN)
    for _ in range(n // len(batch.labels)):
        gathered.add(wide)
    with reading(study.engine) as session:
        material = gathered.material(session, analysis, Pool.MEAN, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert material.samples is not None
    assert len(material.samples.labels) == n
    assert peak < 0.9 * n * len(analysis.sites) * width * np.dtype(np.int64).itemsize


def test_a_long_prompt_widens_the_counts_and_loses_nothing(study: Study):
    analysis_id = study.analyse()
    analysis = study.get(t.Analysis, analysis_id)
    with reading(study.engine) as session:
        short = next(counted_batches(session, analysis_id, "prompt"))
    long = replace(short, counts=short.counts.astype(np.uint16) * 300, tokens=short.tokens.astype(np.uint16) * 300)
    gathered = stage._Gathered(analysis, "prompt", Pool.POOLED)
    for batch in (short, long, short):
        gathered.add(batch)
    with reading(study.engine) as session:
        samples = gathered.material(session, analysis, Pool.POOLED, None).samples
    assert samples is not None
    expected = np.concatenate([short.counts, short.counts.astype(int) * 300, short.counts]).reshape(24, -1)
    np.testing.assert_array_equal(samples.numerators, expected)


def test_the_stage_starts_without_torch():
    """In a process of its own: this one has loaded everything."""
    code = (
        "import sys, worker.engine, worker.statistics; "
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'fastapi'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
