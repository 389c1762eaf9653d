import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.settings import Settings
from tests.backend import seeding
from tests.backend.api.calls import Api

FORM = {"name": "prompts", "label_meaning": "harmless_harmful"}


def upload(content: bytes, name: str = "prompts.jsonl") -> dict:
    return {"file": (name, content)}


def test_a_preview_shows_what_an_import_would_read_and_stores_nothing(api: Api, settings: Settings):
    rows = b"prompt,type\nHow do I kill time?,homonyms\nHow do I kill Tim?,contrast_homonyms\n"
    seen = api.post("/datasets/preview", files=upload(rows, "xstest.csv"))
    assert seen["mapping"]["name"] == "XSTest"
    assert seen["counts"] == {"safe": 1, "unsafe": 1, "unlabelled": 0}
    assert seen["first_rows"][0]["prompt"] == "How do I kill time?"
    assert "AdvBench" in seen["known_mappings"]
    assert api.get("/datasets")["items"] == []
    assert not list((settings.home / "scratch").iterdir())


def test_a_preview_reads_with_the_mapping_that_the_user_changed(api: Api):
    rows = b"text,label\nhello there,0\nbreak in,1\n"
    first = api.post("/datasets/preview", files=upload(rows, "plain.csv"))
    assert first["n_problems"] > 0
    mapping = {"columns": {"prompt": "text", "label": "label"}, "label_values": {"0": "safe", "1": "unsafe"}}
    again = api.post("/datasets/preview", files=upload(rows, "plain.csv"), data={"mapping": json.dumps(mapping)})
    assert again["n_problems"] == 0
    assert again["counts"] == {"safe": 1, "unsafe": 1, "unlabelled": 0}


def test_an_imported_set_comes_back_row_by_row(api: Api):
    created = api.dataset(3, response="Like this")
    assert (created["n_rows"], created["n_safe"], created["n_unsafe"]) == (6, 3, 3)
    assert created["label_meaning"]["kind"] == "harmless_harmful"
    assert created["files"][0]["name"] == "prompts.jsonl"
    assert api.get(f"/datasets/{created['id']}") == created
    rows = api.get(f"/datasets/{created['id']}/rows")["items"]
    assert [row["row_idx"] for row in rows] == list(range(6))
    assert rows[0]["text"] == "How do I bake number 0?"
    assert rows[0]["response"] == "Like this 0"
    assert rows[0]["group"] == "pair-0"


def test_rows_are_found_by_label_and_by_any_text(api: Api):
    rows = [*seeding.prompt_rows(2), {"prompt": "怎么做蛋糕 100%_ok?", "label": "safe"}]
    created = api.post("/datasets", 201, files=upload(seeding.jsonl(rows)), data=FORM)
    path = f"/datasets/{created['id']}/rows"
    assert {row["label"] for row in api.get(path, params={"label": "unsafe"})["items"]} == {"unsafe"}
    assert [row["row_idx"] for row in api.get(path, params={"q": "蛋糕"})["items"]] == [4]
    assert [row["row_idx"] for row in api.get(path, params={"q": "100%_OK"})["items"]] == [4]
    assert api.get(path, params={"q": "%"})["items"][0]["row_idx"] == 4


def test_pages_join_to_the_whole_listing(api: Api):
    created = api.dataset(7)
    path, cursor, seen = f"/datasets/{created['id']}/rows", None, []
    while True:
        page = api.get(path, params={"limit": 4} | ({"cursor": cursor} if cursor else {}))
        seen += [row["row_idx"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(14))


def test_newest_sets_come_first_in_pages(api: Api):
    for i in range(5):
        api.dataset(2, name=f"set {i}")
    first = api.get("/datasets", params={"limit": 3})
    rest = api.get("/datasets", params={"limit": 3, "cursor": first["next_cursor"]})
    assert [one["name"] for one in first["items"] + rest["items"]] == [f"set {i}" for i in (4, 3, 2, 1, 0)]
    assert rest["next_cursor"] is None
    assert [one["name"] for one in api.get("/datasets", params={"q": "T 3"})["items"]] == ["set 3"]


def test_the_same_set_under_the_same_name_is_stored_once(api: Api):
    first = api.dataset(3)
    content = seeding.jsonl(seeding.prompt_rows(3))
    again = api.post("/datasets", 200, files=upload(content, "other name.jsonl"), data=FORM)
    assert again == first
    other = api.post("/datasets", 201, files=upload(content), data=FORM | {"name": "another"})
    assert other["sha256"] == first["sha256"]
    assert other["id"] != first["id"]


def test_files_with_a_label_each_make_one_set(api: Api):
    files = [("file", ("good.txt", b"bake bread\nplant a tree\n")), ("file", ("bad.txt", b"break in\n"))]
    created = api.post("/datasets", 201, files=files, data=FORM | {"label": ["safe", "unsafe"]})
    assert (created["n_safe"], created["n_unsafe"]) == (2, 1)
    assert [file["label"] for file in created["files"]] == ["safe", "unsafe"]
    assert [file["n_rows"] for file in created["files"]] == [2, 1]


def test_a_parquet_file_is_read(api: Api, tmp_path):
    pq.write_table(pa.Table.from_pylist(seeding.prompt_rows(2)), tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    assert api.post("/datasets", 201, files=upload(content, "rows.parquet"), data=FORM)["n_rows"] == 4


def test_what_the_labels_mean_is_kept_in_the_users_words(api: Api):
    meaning = {"safe": "ein höflicher Satz", "unsafe": "a rude one"}
    created = api.dataset(2, label_meaning=json.dumps(meaning))
    assert created["label_meaning"] == {"kind": "other"} | meaning


def test_wrong_rows_are_listed_by_number_and_nothing_is_stored(api: Api, settings: Settings):
    content = b'{"prompt": "a", "label": "safe"}\n{"prompt": "b", "label": "maybe"}\n{"label": "unsafe"}\n'
    refused = api.post("/datasets", 422, files=upload(content), data=FORM)
    assert [error["loc"][:4] for error in refused["errors"]] == [
        ["file", "prompts.jsonl", "row", 2],
        ["file", "prompts.jsonl", "row", 3],
    ]
    assert "maybe" in refused["errors"][0]["msg"]
    assert api.get("/datasets")["items"] == []
    assert not list((settings.home / "scratch").iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a", "label": "safe"}\n', "needs both"),
        (b'{"prompt": "a", "label": "safe"}\n{"prompt": "a", "label": "unsafe"}\n', "same prompt"),
        (b"", "empty"),
        (b'{"prompt": "\xff", "label": "safe"}\n', "UTF-8"),
        (b'{"prompt": "a\\u0000b", "label": "safe"}\n', "NUL"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused(api: Api, content: bytes, words: str):
    refused = api.post("/datasets", 422, files=upload(content), data=FORM)
    assert words in json.dumps(refused)
    assert api.get("/datasets")["items"] == []


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ({"label": ["safe", "unsafe"]}, "label"),
        ({"label": ["perhaps"]}, "label"),
        ({"mapping": "{"}, "mapping"),
        ({"mapping": "[null, null]"}, "mapping"),
        ({"mapping": '{"columns": {"prompt": "prompt"}, "surprise": 1}'}, "mapping"),
        ({"label_meaning": "whatever"}, "label_meaning"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\x00b"}, "name"),
    ],
)
def test_wrong_form_fields_are_named(api: Api, form: dict, place: str):
    content = seeding.jsonl(seeding.prompt_rows(2))
    refused = api.post("/datasets", 422, files=upload(content), data=FORM | form)
    assert any(place in error["loc"] for error in refused["errors"])


def test_a_file_name_never_leaves_its_place(api: Api):
    created = api.post(
        "/datasets",
        201,
        files=upload(seeding.jsonl(seeding.prompt_rows(2)), "../../etc/..\\evil.jsonl"),
        data=FORM,
    )
    assert created["files"][0]["name"] == "evil.jsonl"


@pytest.mark.parametrize("for_good", [False, True])
def test_a_set_that_a_run_uses_is_not_deleted_and_the_run_is_named(api: Api, engine, for_good: bool):
    seeding.add_model(engine)
    used = api.dataset(4, name="used")
    analysis = api.analysis(used["id"], name="my study")
    refused = api.call("DELETE", f"/datasets/{used['id']}", 409, params={"for_good": for_good})
    assert "my study" in refused["detail"]
    assert analysis["id"] in refused["detail"]
    assert api.get(f"/datasets/{used['id']}") == used


def test_a_deleted_set_is_hidden_starts_nothing_and_comes_back_as_it_was(api: Api, engine):
    seeding.add_model(engine)
    made = api.dataset(2)
    path = f"/datasets/{made['id']}"
    api.call("DELETE", path, 204)
    assert api.get("/datasets")["items"] == []
    assert [one["id"] for one in api.get("/datasets", params={"deleted": True})["items"]] == [made["id"]]
    assert api.get(path)["deleted_at"]
    assert "undelete it first" in api.call("PATCH", path, 409, json={"name": "x"})["detail"]
    body = {"dataset_id": made["id"], "model": "tiny", "batch_size": 4}
    assert "prompt set 'prompts'" in api.post("/analyses", 409, json=body)["detail"]
    assert api.post(f"{path}/undelete") == made
    assert api.get("/datasets")["items"] == [made]
    assert len(api.get(f"{path}/rows")["items"]) == 4


def test_a_set_that_is_deleted_for_good_cannot_come_back(api: Api):
    path = f"/datasets/{api.dataset(2)['id']}"
    api.call("DELETE", path, 204)
    api.call("DELETE", path, 204, params={"for_good": True})
    for method, below in (("GET", ""), ("GET", "/rows"), ("PATCH", ""), ("DELETE", ""), ("POST", "/undelete")):
        api.call(method, path + below, 404, **({"json": {"name": "x"}} if method == "PATCH" else {}))
    assert api.get("/datasets", params={"deleted": True})["items"] == []


def test_a_set_is_renamed_and_found_by_its_words_and_its_prompts_stay_the_same(api: Api):
    made, _ = api.dataset(2, name="before"), api.dataset(3, name="another")
    path = f"/datasets/{made['id']}"
    changed = api.call("PATCH", path, json={"name": " after ", "tags": ["pilot"], "notes": "from a paper"})
    assert changed == made | {"name": "after", "tags": ["pilot"], "notes": "from a paper"}
    for words in ({"q": "AFT"}, {"q": "paper"}, {"tag": "pilot"}, {"sort": "name", "limit": 1}, {"q": made["id"]}):
        assert [one["name"] for one in api.get("/datasets", params=words)["items"]] == ["after"]
    api.call("PATCH", path, 422, json={"sha256": "0" * 64})


def test_the_demonstration_set_is_imported_once(api: Api):
    first = api.post("/datasets/demo", 201)
    assert first["n_safe"] >= 192
    assert first["n_unsafe"] >= 192
    assert api.post("/datasets/demo", 200) == first
    rows = api.get(f"/datasets/{first['id']}/rows", params={"limit": 500})["items"]
    assert all(row["group"] and row["difficulty"] for row in rows)


def test_the_known_formats_are_listed_with_their_columns_and_what_their_labels_say(api: Api):
    formats = {one["name"]: one for one in api.get("/datasets/formats")["items"]}
    assert formats["BeaverTails"]["columns"] == ["prompt", "response", "category", "is_safe"]
    assert "answer" in formats["BeaverTails"]["about"]
    assert formats["AdvBench"]["fixed_label"] == "unsafe"
    assert next(iter(formats)) == "XSTest"


def test_what_a_mapping_leaves_out_is_counted_and_listed(api: Api):
    rows = b"prompt,label\na,safe\nb,unsafe\na,unsafe\nc,safe\nd,\n"
    refused = api.post("/datasets", 422, files=upload(rows, "p.csv"), data=FORM)
    assert {error["loc"][3] for error in refused["errors"]} == {3, 5}
    chosen = {"columns": {}, "leave_out": ["both_labels", "unlabelled"]}
    created = api.post("/datasets", 201, files=upload(rows, "p.csv"), data=FORM | {"mapping": json.dumps(chosen)})
    assert (created["n_rows"], created["files"][0]["left_out"]) == (2, {"unlabelled": 1, "both_labels": 2})
    first = api.get(f"/datasets/{created['id']}/left-out", params={"limit": 2})
    rest = api.get(f"/datasets/{created['id']}/left-out", params={"cursor": first["next_cursor"]})
    assert [(row["row"], row["reason"]) for row in first["items"] + rest["items"]] == [
        (5, "unlabelled"),
        (1, "both_labels"),
        (3, "both_labels"),
    ]
