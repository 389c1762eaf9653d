import json
import re
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from backend.domain.vocabulary import Site
from backend.store import tables as t
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.reading_reports import Page, markdown_paragraphs, markdown_tables, markdown_tokens, number

SECTIONS = ["method", "versions", "results", "caveats", "reproduce"]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><iframe src='https://evil.example/'>",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "https://evil.example/ www.evil.example <https://evil.example/>",
    "# big\n---\n| a | b |\n|---|---|\n`code` ``two`` **bold** __b__ ~~s~~",
    "\u202eevil\u202c \x07 &lt;b&gt; &#60;b&#62;",
    "]]>--><!-- x",
]


@pytest.fixture
def ready(api: Api, engine) -> SimpleNamespace:
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(12, response="So")["id"], scopes=["prompt", "last"])
    seeding.measure(engine, analysis["id"])
    return SimpleNamespace(api=api, engine=engine, id=analysis["id"], path=f"/analyses/{analysis['id']}")


def written(ready: SimpleNamespace, form: str = "html", status: int = 200, **params: object) -> str:
    answer = ready.api.get(f"{ready.path}/report", status, params={"format": form} | params)
    return answer.text if status == 200 else answer["detail"]


def test_a_report_has_the_sections_of_a_paper_in_their_order_in_both_forms(ready):
    page = Page(written(ready))
    assert [section for section in page.ids if section in SECTIONS] == SECTIONS
    titles = re.findall(r"^## (.+)$", written(ready, "md"), re.MULTILINE)
    assert titles == ["Abstract", "Method", "Versions and hashes", "Results", "Caveats", "Reproduce"]


@pytest.mark.parametrize("pool", ["mean", "pooled"])
@pytest.mark.parametrize("scope", ["prompt", "last"])
def test_every_figure_of_an_expert_is_the_one_that_rest_gives(ready, scope, pool):
    items = ready.api.get(f"{ready.path}/experts", params={"scope": scope, "pool": pool, "limit": 500})["items"]
    by_place = {(item["layer"], item["expert"]): item for item in items}
    head, *rows = Page(written(ready, scope=scope, pool=pool)).tables["top-experts"]
    names = {"risk_diff": "risk_diff", "Rate unsafe": "rate_unsafe", "Rate safe": "rate_safe"}
    assert len(rows) == 8
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        item = by_place[int(cells["Layer"]), int(cells["Expert"])]
        for title, name in names.items():
            assert number(cells[title]) == pytest.approx(item[name], abs=5.1e-5), (title, item)
    assert [number(row[2]) for row in rows] == sorted((number(row[2]) for row in rows), key=abs, reverse=True)


def test_counts_digests_and_links_are_those_that_rest_gives(ready):
    page, api = Page(written(ready)), ready.api
    analysis = api.get(ready.path)
    dataset = api.get(f"/datasets/{analysis['dataset_id']}")
    hashes = dict(page.tables["hashes"][1:])
    assert hashes["Prompt set"] == dataset["sha256"]
    assert hashes["Batch plan"] == analysis["plan"]["digest"]
    assert hashes["Model weights"] == "w" * 64
    risk = api.get(f"{ready.path}/risk-diff")
    counted = {row[0]: [number(cell) for cell in row[1:5]] for row in page.tables["prompt-counts"][1:]}
    plan = analysis["plan"]
    assert counted["safe"] == [dataset["n_safe"], plan["n_safe"], risk["n_safe"], risk["tokens_safe"]]
    assert counted["unsafe"] == [dataset["n_unsafe"], plan["n_unsafe"], risk["n_unsafe"], risk["tokens_unsafe"]]
    links = api.post(f"{ready.path}/verify")["links"]
    assert [(row[0], row[1], number(row[2])) for row in page.tables["chain"][1:]] == [
        (link["name"], "yes", link["checked"]) for link in links
    ]


def test_markdown_says_what_html_says(ready):
    page, text = Page(written(ready)), written(ready, "md")
    assert markdown_tables(text) == list(page.tables.values())
    said = set(markdown_paragraphs(text))
    assert len(page.paragraphs) > 20
    assert [one for one in page.paragraphs if one not in said] == ["Routeprint report"]


def test_the_same_record_gives_the_same_bytes_and_an_etag(ready):
    for form in ("html", "md"):
        first = ready.api.client.get(f"/api/v1{ready.path}/report", params={"format": form})
        again = ready.api.client.get(f"/api/v1{ready.path}/report", params={"format": form})
        assert first.content == again.content
        headers = {"If-None-Match": first.headers["etag"]}
        same = ready.api.client.get(f"/api/v1{ready.path}/report", params={"format": form}, headers=headers)
        assert (same.status_code, same.content) == (304, b"")
        assert first.headers["content-disposition"].endswith(f'{ready.id}-prompt-mean.{form}"')


def test_the_page_loads_nothing(ready):
    content = written(ready, examples=True)
    page = Page(content)
    assert page.loads
    assert all(load.startswith(("data:", "#")) for load in page.loads), page.loads
    style = content[content.index("<style>") : content.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not {"script", "iframe", "object", "embed", "form", "base", "audio", "video"} & set(page.tags)
    assert "default-src 'none'" in content
    assert len(content) < 1_000_000


def test_no_prompt_is_in_a_report_unless_it_is_asked_for(ready):
    for form in ("html", "md"):
        assert "How do I" not in written(ready, form)
        assert written(ready, form, examples=True).count("How do I") == 10
    assert "<details>" in written(ready, examples=True)


def hostile(api: Api, engine) -> SimpleNamespace:
    seeding.add_model(engine, "org/<b>model</b>`x`", sites=seeding.SITES, architecture="<i>Moe</i>")
    rows = seeding.prompt_rows(8)
    for place, row in enumerate(rows):
        text = HOSTILE[place // 2 % len(HOSTILE)]
        row |= {"prompt": f"{text} {place}", "source": text.replace("\x07", ""), "group": f"{text}{place // 2}"}
    meaning = json.dumps({"safe": HOSTILE[0], "unsafe": HOSTILE[3]})
    name = '<script>alert("n")</script> | [x](javascript:a) `c`'
    content, form = seeding.jsonl(rows), {"name": name, "label_meaning": meaning}
    dataset = api.post("/datasets", 201, files={"file": ("<b>`f`|.jsonl", content)}, data=form)
    analysis = api.analysis(
        dataset["id"], model="org/<b>model</b>`x`", name=" ".join(HOSTILE[:3]), system_prompt="\n".join(HOSTILE)
    )
    seeding.measure(engine, analysis["id"])
    return SimpleNamespace(api=api, id=analysis["id"], path=f"/analyses/{analysis['id']}")


def test_hostile_text_is_text_in_html(api: Api, engine, ready):
    plain_page, content = Page(written(ready, examples=True)), written(hostile(api, engine), examples=True)
    page = Page(content)
    assert set(page.tags) <= set(plain_page.tags)
    assert all(load.startswith(("data:", "#")) for load in page.loads), page.loads
    assert "<script" not in content
    assert "\u202e" not in content
    assert "<script>alert(1)</script>" in page.text


def test_hostile_text_is_text_in_markdown(api: Api, engine, ready):
    calm = {token.type for token in markdown_tokens(written(ready, "md", examples=True))}
    content = written(hostile(api, engine), "md", examples=True)
    tokens = markdown_tokens(content)
    assert {token.type for token in tokens} <= calm
    assert not {"html_block", "html_inline", "link_open"} & {token.type for token in tokens}
    images = [token.attrs["src"] for token in tokens if token.type == "image"]
    assert len(images) == 2
    assert all(str(image).startswith("data:image/png;base64,") for image in images)
    shown = "".join(token.content for token in tokens if token.type in ("text", "code_inline"))
    assert "<script>alert(1)</script>" in shown
    assert "[click](javascript:alert(1))" in shown
    for table in markdown_tables(content):
        assert len({len(row) for row in table}) == 1, table


def test_an_unfinished_analysis_and_a_batch_that_is_not_finite_are_said(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(8)["id"])
    ready = SimpleNamespace(api=api, path=f"/analyses/{analysis['id']}")
    empty = Page(written(ready))
    assert "There is no result yet: not measured yet." in empty.text
    assert "top-experts" not in empty.tables
    seeding.measure(engine, analysis["id"], only=range(3), non_finite=(1,), finish=False)
    text = Page(written(ready)).text
    assert "in 2 of 4 planned batches so far" in text
    assert "every figure will change" in text
    assert "In 1 batch the router gave a NaN or an infinity" in text


def test_caveats_follow_the_data(api: Api, engine):
    seeding.add_model(engine)
    rows = [row | {"group": None, "source": row["label"] + " book"} for row in seeding.prompt_rows(8)]
    files = [
        ("file", (f"{label}.jsonl", seeding.jsonl([row for row in rows if row["label"] == label])))
        for label in ("safe", "unsafe")
    ]
    form = {"name": "two books", "label_meaning": "refused_complied"}
    dataset = api.post("/datasets", 201, files=files, data=form)
    analysis = api.analysis(dataset["id"], dtype="bfloat16", max_length=7)
    seeding.measure(engine, analysis["id"])
    text = Page(written(SimpleNamespace(api=api, path=f"/analyses/{analysis['id']}"))).text
    assert "Every source in the set (safe book and unsafe book) holds one label only" in text
    assert text.count("a difference between the labels may be one between the sources") == 1
    assert "names neither topics nor contrast pairs" in text
    assert "“bfloat16”" in text
    assert "a harmful request that was complied with" in text
    paired = api.analysis(api.dataset(60, name="pairs")["id"], dtype="float32")
    seeding.measure(engine, paired["id"])
    calm = Page(written(SimpleNamespace(api=api, path=f"/analyses/{paired['id']}"))).text
    for caveat in (
        "holds one label only",
        "names neither topics",
        "Number format.",
        "Few units.",
        "Truncated prompts.",
        "between the sources",
    ):
        assert caveat not in calm, caveat
    assert "Routing follows topic." in calm


def test_a_broken_chain_is_said_first_among_the_caveats(ready):
    with ready.engine.begin() as connection:
        connection.execute(update(t.BatchSample).where(t.BatchSample.batch_idx == 1).values(prompt_digest="00"))
    page = Page(written(ready))
    assert "NO" in [row[1] for row in page.tables["chain"][1:]]
    assert "The chain of provenance is broken" in page.text
    unchecked = Page(written(ready, verify=False))
    assert "chain" not in unchecked.tables
    assert "was not checked" in unchecked.text


def test_two_expert_sites_in_a_layer_are_told_apart(api: Api, engine):
    sites = (Site(0, "l.0.routed", 4, 2), Site(0, "l.0.other", 3, 1), Site(1, "l.1.routed", 4, 2))
    seeding.add_model(engine, sites=sites)
    analysis = api.analysis(api.dataset(6)["id"])
    seeding.measure(engine, analysis["id"])
    page = Page(written(SimpleNamespace(api=api, path=f"/analyses/{analysis['id']}")))
    assert {row[0] for row in page.tables["top-experts"][1:]} == {"0 routed", "0 other", "1"}
    assert "Grey cells without a value" in page.text


def test_a_report_refuses_what_it_cannot_make(ready):
    assert "did not count the scope" in written(ready, status=422, scope="response")
    ready.api.get("/analyses/an_000000000000/report", 404)
    ready.api.get(f"{ready.path}/report", 422, params={"format": "pdf"})
