import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.domain.report.abstract import abstract
from backend.domain.report.caveats import caveats
from backend.domain.report.document import Bullets, plain
from backend.domain.report.facts import Facts
from backend.domain.vocabulary import Pool, Scope
from backend.store import reports
from backend.store import tables as t
from backend.store.engine import reading
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.reading_reports import Page, markdown_paragraphs, markdown_tables, number

QUICK = {"n_permutations": 199, "n_resamples": 199, "n_stability": 20, "n_splits": 4}


@pytest.fixture
def ready(api: Api, engine) -> SimpleNamespace:
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(12)["id"], scopes=["prompt", "last"])
    seeding.measure(engine, analysis["id"])
    return SimpleNamespace(api=api, engine=engine, id=analysis["id"], path=f"/analyses/{analysis['id']}")


def examined(ready: SimpleNamespace, **asked: Any) -> dict[str, Any]:
    body = QUICK | asked
    created = ready.api.post(f"{ready.path}/statistics", 202, json=body)
    seeding.examine(ready.engine, created["id"])
    return ready.api.get(f"/statistics/{created['id']}")


def page_of(ready: SimpleNamespace, **params: Any) -> Page:
    return Page(ready.api.get(f"{ready.path}/report", params=params).text)


def facts_of(ready: SimpleNamespace) -> Facts:
    with reading(ready.engine) as session:
        analysis = session.get_one(t.Analysis, ready.id)
        return reports.gather(
            session, analysis, Scope.PROMPT, Pool.MEAN, statistics_id=None, with_examples=False, verify=False
        )


@pytest.mark.parametrize(("scope", "pool"), [("prompt", "mean"), ("last", "pooled")])
def test_every_tested_figure_is_the_one_that_rest_gives(ready, scope, pool):
    found = examined(ready, scope=scope, pool=pool)
    items = ready.api.get(f"/statistics/{found['id']}/experts", params={"limit": 500})["items"]
    by_place = {(item["layer"], item["expert"]): item for item in items}
    head, *rows = page_of(ready, scope=scope, pool=pool).tables["top-experts"]
    assert len(rows) == 8
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        item = by_place[int(cells["Layer"]), int(cells["Expert"])]
        low, high = cells["95 % interval"].strip("[]").split(", ") if item["ci_low"] is not None else ("–", "–")
        shown = {
            "ci_low": number(low),
            "ci_high": number(high),
            "load": number(cells["Load"]),
            "frequency": None if cells["Selected in"] == "–" else number(cells["Selected in"]) / 100,
            **{name: number(cells[name]) for name in ("risk_diff", "p", "p_max_t", "q")},
        }
        for name, value in shown.items():
            near = 0.0051 if name in ("load", "frequency") else 5.1e-5
            assert value == (None if item[name] is None else pytest.approx(item[name], abs=near)), (name, item)
    ranks = [by_place[int(row[0]), int(row[1])]["p_max_t"] for row in rows]
    assert ranks == sorted(ranks)


def test_every_figure_of_the_summary_is_the_one_that_rest_gives(ready):
    found = examined(ready)
    summary, page = found["summary"], page_of(ready)
    names = ("routing", "length", "tokens", "routing_and_tokens")
    names += ("routing_less_length", "routing_less_tokens", "added_to_tokens")
    for name, (_, auc, bounds) in zip(names, page.tables["auc"][1:], strict=True):
        area = summary["baselines"][name]
        assert number(auc) == pytest.approx(area["auc"], abs=5.1e-4), name
        low, high = map(number, bounds.strip("[]").split(", "))
        assert (low, high) == (pytest.approx(area["low"], abs=5.1e-4), pytest.approx(area["high"], abs=5.1e-4)), name
    halves = [number(row[1]) for row in page.tables["split-half"][1:]]
    keys = ("jaccard", "jaccard_by_chance", "correlation", "risk_diff_in_half", "risk_diff_in_other")
    for value, key in zip(halves, keys, strict=True):
        given = summary["stability"][key]
        assert value == (None if given is None else pytest.approx(given, abs=5.1e-4)), key
    hashes = dict(page.tables["hashes"][1:])
    assert hashes["What the statistics stand on"] == found["input_digest"]
    assert hashes["What they found"] == found["sha256"]
    assert summary["design"]["reason"] in page.text
    assert f"B = {found['params']['n_permutations']}" in page.text
    loads = {row[0]: row for row in page.tables["layers-table"][1:]}
    for layer in summary["load"]["layers"]:
        assert number(loads[str(layer["layer"])][-3]) == pytest.approx(layer["entropy"], abs=5.1e-4)


@pytest.mark.parametrize("pool", ["mean", "pooled"])
def test_the_tokens_of_an_expert_are_those_that_rest_gives(ready, pool):
    assert "tokens" not in page_of(ready).ids
    examined(ready, pool=pool)
    context = ready.api.post(f"{ready.path}/context", 202, json={"experts": [[1, 0], [1, 2], [3, 3]]})
    seeding.read_in_context(ready.engine, context["id"])
    page = page_of(ready, pool=pool)
    assert page.ids.index("top-experts") < page.ids.index("driving-tokens") < page.ids.index("layers-table")
    assert "it counted exactly what the analysis had stored" in page.text
    rows = page.tables["driving-tokens"][1:]
    assert {(row[0], row[1]) for row in rows} == {("1", "0"), ("1", "2"), ("3", "3")}
    for layer, expert, risk_diff, concentration, *sides in rows:
        path = f"/context/{context['id']}/experts/{layer}/{expert}"
        own = ready.api.get(path, params={"pool": pool, "top": 5})
        assert number(risk_diff) == pytest.approx(own["risk_diff"], abs=5.1e-5)
        assert number(concentration) == pytest.approx(100 * own["concentration"], abs=0.51)
        for cell, side in zip(sides, ("raising", "lowering"), strict=True):
            shown = re.findall(r"“(.*?)”\u00a0([+−][\d.]+)", cell)
            listed = [one for one in own[side] if abs(one["contribution"]) >= 5e-5]
            assert [token for token, _ in shown] == [one["text"] for one in listed]
            assert [number(value) for _, value in shown] == pytest.approx(
                [one["contribution"] for one in listed], abs=5.1e-5
            )


def test_both_forms_say_the_same_of_the_statistics(ready):
    examined(ready, alpha=0.5)
    page, text = page_of(ready), ready.api.get(f"{ready.path}/report", params={"format": "md"}).text
    assert markdown_tables(text) == list(page.tables.values())
    said = set(markdown_paragraphs(text))
    assert [one for one in page.paragraphs if one not in said] == ["Routeprint report"]


def test_a_report_takes_the_newest_finished_statistics_or_those_that_are_named(ready):
    first = examined(ready)
    second = examined(ready, seed=1)
    waiting = ready.api.post(f"{ready.path}/statistics", 202, json=QUICK | {"seed": 2})
    assert f"/statistics/{second['id']}/experts" in page_of(ready).text
    assert f"/statistics/{first['id']}/experts" in page_of(ready, statistics_id=first["id"]).text
    ready.api.get(f"{ready.path}/report", 409, params={"statistics_id": waiting["id"]})
    ready.api.get(f"{ready.path}/report", 409, params={"statistics_id": first["id"], "pool": "pooled"})
    ready.api.get(f"{ready.path}/report", 404, params={"statistics_id": "st_000000000000"})


def test_statistics_that_are_still_queued_are_said_to_be(ready):
    created = ready.api.post(f"{ready.path}/statistics", 202, json=QUICK)
    page = page_of(ready)
    assert "the statistics are queued" in page.text
    assert "Nothing is tested." in page.text
    assert created["id"] not in page.text


def test_the_words_follow_the_tests(ready):
    """Doctored summaries: what the paragraph may say depends on them alone."""
    examined(ready)
    facts = facts_of(ready)
    assert facts.statistics

    def said(**changes: Any) -> str:
        assert facts.statistics
        summary = {**facts.statistics.summary, **changes}
        return plain(abstract(replace(facts, statistics=replace(facts.statistics, summary=summary))))

    area = {"auc": 0.8, "low": 0.7, "high": 0.9}
    beside = facts.statistics.summary["baselines"]

    def less(low: float, high: float) -> dict[str, Any]:
        difference = {"auc": (low + high) / 2, "low": low, "high": high}
        return beside | {"reason": "", "routing": area, "tokens": area, "routing_less_tokens": difference}

    assert "No expert differed significantly" in said(n_significant=0)
    some = said(n_significant=3, n_significant_unsafe=2, n_significant_safe=1)
    assert "3 experts of 8 differed significantly" in some
    assert "2 fired more on unsafe, 1 more on safe" in some
    aliased = said(design=facts.statistics.summary["design"] | {"scheme": "not_testable", "reason": "Not testable: x."})
    assert "cannot be tested in this design" in aliased
    assert "differed significantly" not in aliased
    assert "better than a bag of words" in said(baselines=less(0.01, 0.1))
    assert "less well than the words alone" in said(baselines=less(-0.1, -0.01))
    assert "not tell the labels apart measurably better or worse" in said(baselines=less(-0.1, 0.1))
    assert "AUC" not in said(baselines={"reason": "Each label needs at least two groups."})
    for words in (some, aliased, said(), said(n_significant=8)):
        assert not re.search(r"\bcauses?\b|\bproves?\b|\bbecause\b", words)
        assert "association" in words


def test_a_sign_that_the_adjustment_turns_is_said(ready):
    examined(ready, alpha=0.5)
    facts = facts_of(ready)
    assert facts.statistics
    figures = dict(facts.statistics.figures) | {"p_max_t": np.full((2, 4), 0.01), "difference": facts.risk_diff}

    def said(figures: dict[str, Any]) -> str:
        assert facts.statistics
        section = caveats(replace(facts, statistics=replace(facts.statistics, figures=figures)))
        assert isinstance(section.blocks[0], Bullets)
        return " ".join(plain(item) for item in section.blocks[0].items)

    assert "Signs that turn" not in said(figures)
    assert "For 8 significant experts the tested difference" in said(figures | {"difference": -facts.risk_diff})
    assert "Signs that turn" not in said(figures | {"difference": -facts.risk_diff, "p_max_t": np.full((2, 4), 0.9)})


def test_a_label_that_is_one_with_its_source_is_not_testable_and_said_so(api: Api, engine):
    seeding.add_model(engine)
    rows = [row | {"group": None, "source": f"<b>{row['label']}</b>"} for row in seeding.prompt_rows(8)]
    form = {"name": "aliased", "label_meaning": "harmless_harmful"}
    dataset = api.post("/datasets", 201, files={"file": ("a.jsonl", seeding.jsonl(rows))}, data=form)
    analysis = api.analysis(dataset["id"])
    seeding.measure(engine, analysis["id"])
    ready = SimpleNamespace(api=api, engine=engine, id=analysis["id"], path=f"/analyses/{analysis['id']}")
    examined(ready, strata="source")
    page = page_of(ready)
    assert "every stratum holds one label only" in page.text
    assert "No expert can be called significant." in page.text
    assert "Label and source cannot be told apart." in page.text
    assert {row[6] for row in page.tables["top-experts"][1:]} == {"–"}
    assert "b" not in page.tags
