"""The model card: what it states is what was stored, and no name that a user typed is more than text in it."""

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, tiny_run
from worker.adapters import Adapter
from worker.card import CARD, write_card
from worker.checkpoints import read_manifest
from worker.origin import Origin
from worker.seen import Seen
from worker.training import train

DIGESTS = {
    name: digit * 64 for name, digit in zip(("plan", "set", "weights", "targets", "experts"), "12345", strict=True)
}
ORIGIN = Origin(
    training_id="tr_0123456789ab",
    training_name="first try",
    analysis_id="an_0123456789ab",
    plan_digest=DIGESTS["plan"],
    dataset_id="ds_0123456789ab",
    dataset_name="my prompts",
    dataset_sha256=DIGESTS["set"],
    label_meaning=("harmless", "harmful"),
    base_model="routeprint/demo-olmoe",
    base_digests=(("config", "6" * 64), ("weights", DIGESTS["weights"]), ("tokenizer", "7" * 64), ("template", None)),
    target_digest=DIGESTS["targets"],
    targets=("default", "refusal"),
    expert_set=("es_0123456789ab", "top 3", DIGESTS["experts"], "top_k"),
)
HOSTILE = (
    "---\nlicense: mit\n---",
    "x\n---\nlicense: mit\n---\n# heading",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![](http://evil.example/x.png)",
    "<http://evil.example> https://evil.example www.evil.example",
    "| a | b |\n| --- | --- |",
    "```\ncode\n```",
    "`tick` **bold** _it_ ~~gone~~ $x$",
    "# heading\n## more",
    "- item\n1. item\n> quote",
    "&lt;b&gt; &#35; {{ jinja }} {% raw %} !!python/object:os.system",
    "\u202egpj.exe \u200b\u2066 \x00\x1b[31m",
    "[ref]: http://evil.example 'title'",
    "\\",
    "",
)


def rendered(path: Path) -> tuple[list[str], list[str]]:
    """Return (kinds of everything that is not plain text, texts of the table cells) of a card's body."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    kinds, texts = [], []
    for token in parser.parse(ModelCard.load(path).text):
        inner = token.children or []
        kinds += [token.type, *(child.type for child in inner if child.type != "text")]
        texts.append("".join(child.content for child in inner))
    return kinds, texts


def card(folder: Path, **names: str) -> Path:
    run = tiny_run(Path("model"), folder, origin=dataclasses.replace(ORIGIN, **names))
    write_card(folder, run, Seen(3, 3, 1.5, 1.25, 1.25, 3), {"versions": {"torch": "2.13.0"}})
    return folder / CARD


def test_a_card_states_the_chain_the_settings_what_learned_and_what_was_seen(tmp_path):
    path = card(tmp_path)
    text, data = path.read_text(), ModelCard.load(path).data.to_dict()
    for digest in (*DIGESTS.values(), "6" * 64, "7" * 64):
        assert f"`{digest}`" in text
    for said in (
        "# first try",
        "A checkpoint after step 3 of 8",
        "| layer | experts |\n| --- | --- |\n| 0 | 1 |\n| 1 | 0, 3 |",
        "| learning rate | 0.01 |",
        "| seed | 0 |",
        "| preserve batches | yes |",
        "| micro batch size | not set |",
        "| safe prompts learn | the given response where there is one, else the base model's own answer |",
        "| unsafe prompts learn | the refusal text |",
        "| steps verified | 3 |",
        "| loss of the first step | 1.5 |",
        "| lowest loss | 1.25, in step 3 |",
        "| torch version | `2.13.0` |",
        "routeprint verify tr_0123456789ab",
        "It does not mean that the model is safer",
    ):
        assert said in text
    assert data["base_model"] == "routeprint/demo-olmoe"
    assert data["library_name"] == "transformers"
    assert data["routeprint"]["dataset_sha256"] == DIGESTS["set"]
    assert data["routeprint"]["base_weights_sha256"] == DIGESTS["weights"]


@settings(max_examples=40)
@given(name=st.text(max_size=60))
@example(name=HOSTILE[0])
def test_no_name_is_more_than_text(tmp_path_factory, name):
    is_text(tmp_path_factory.mktemp("card"), name)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_too(tmp_path, name):
    is_text(tmp_path, name)


def is_text(folder: Path, name: str) -> None:
    usual_kinds, _ = rendered(card(folder))
    usual_data = ModelCard.load(folder / CARD).data.to_dict()
    expert_set = (*ORIGIN.expert_set[:1], name, *ORIGIN.expert_set[2:])
    path = card(folder, training_name=name, dataset_name=name, label_meaning=(name, name), expert_set=expert_set)
    kinds, texts = rendered(path)
    assert kinds == usual_kinds  # not a link, a picture, a heading, a row or a piece of HTML more
    assert ModelCard.load(path).data.to_dict() == usual_data
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "(no name)"
    assert texts.count(shown) >= 5  # the title and four cells, word for word
    assert path.read_text().isprintable() or all(c.isprintable() or c == "\n" for c in path.read_text())


def test_a_card_says_how_an_adapter_was_made(tmp_path):
    run = tiny_run(Path("model"), tmp_path, origin=ORIGIN, adapter=Adapter(rank=4, alpha=8.0))
    write_card(tmp_path, run, Seen(), {})
    text = (tmp_path / CARD).read_text()
    assert "| adapter rank | 4 |" in text
    assert "| adapter alpha | 8.0 |" in text


def test_a_card_says_how_fast_the_routers_learned(tmp_path):
    write_card(tmp_path, tiny_run(Path("model"), tmp_path, routers={"learning_rate": None}), Seen(), {})
    assert "| learning rate of the routers | 0.01 |" in (tmp_path / CARD).read_text()


def test_the_card_of_a_run_that_mixed_its_samples_does_not_call_a_step_a_batch(tmp_path):
    write_card(tmp_path, tiny_run(Path("model"), tmp_path, preserve_batches=False), Seen(), {})
    text = (tmp_path / CARD).read_text()
    assert "One optimizer step is one analysis batch" not in text
    assert "mixes samples of several analysis batches" in text


def test_a_model_id_that_is_no_repository_s_name_stays_out_of_base_model(tmp_path):
    for base in ("training:tr_1", "a b/c", "x" * 200 + "/y", "../../etc", "alone"):
        assert "base_model" not in ModelCard.load(card(tmp_path, base_model=base)).data.to_dict()
    assert ModelCard.load(card(tmp_path, base_model="hub:org/name")).data.base_model == "org/name"


def test_every_checkpoint_and_the_model_carry_a_card_that_their_manifest_covers(tmp_path):
    model, out = save_tiny(tmp_path / "model", "olmoe"), tmp_path / "run"
    sink = ListSink(stop_after=3)
    train(tiny_run(model, out, origin=ORIGIN, epochs=1), sink)
    told = (out / "checkpoint-3" / CARD).read_text()
    assert "A checkpoint after step 3 of 4" in told
    assert f"| loss of the last step | {sink.records[-1].loss:.6g} |" in told
    assert CARD in read_manifest(out / "checkpoint-3").files
    second = ListSink()
    result = train(tiny_run(model, out, origin=ORIGIN, epochs=1), second)
    final = (result.model_dir / CARD).read_text()
    assert "A trained model. One optimizer step" in final
    assert "| steps taken | 4 of 4 |" in final
    assert f"| loss of the first step | {sink.records[0].loss:.6g} |" in final  # from before the resume
    (result.model_dir / CARD).write_text(final + "\nand it is safe\n")
    with pytest.raises(ValueError, match=r"README.md is damaged"):
        read_manifest(result.model_dir)
