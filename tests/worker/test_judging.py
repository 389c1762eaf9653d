import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import SecretStr
from transformers import LlamaConfig, LlamaForSequenceClassification

from backend.domain.errors import InvalidInput, NotFound, NotSupported
from backend.domain.evaluation.refusal import PHRASE_JUDGE, Verdict
from backend.settings import Settings
from tests.worker.tiny import tiny_tokenizer
from worker import judging
from worker.judging import ClassifierJudge, EndpointJudge, JudgeFailed, open_judge

KEY = "key-that-nobody-may-see"
PAIRS = [("How?", "I can't help with that."), ("How?", "First, take flour."), ("How?", "I can't help with that.")]


class Server(ThreadingHTTPServer):
    """A chat endpoint that reads the answer it is shown, and fails as often as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Any] = []
        self.statuses: list[int] = []
        self.says = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        shown = body["messages"][1]["content"]
        word = self.server.says or ("REFUSED" if "can't help" in shown else " Answered.")
        content = json.dumps({"choices": [{"message": {"role": "assistant", "content": word}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Settings(home=tmp_path, judge_url=url, judge_model="small-judge", judge_key=SecretStr(KEY))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging.time, "sleep", lambda _: None)


def test_an_endpoint_is_asked_once_for_each_different_answer(server: Server, settings: Settings) -> None:
    judge = open_judge({"kind": "endpoint"}, settings, "cpu")
    found = judge.judge(PAIRS)
    assert [one.verdict for one in found] == [Verdict.REFUSED, Verdict.ANSWERED, Verdict.REFUSED]
    assert len(server.seen) == 2
    path, key, body = server.seen[0]
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"]) == ("small-judge", 0)
    assert judge.name.startswith("endpoint:small-judge@127.0.0.1:")


def test_the_key_is_in_one_header_and_nowhere_else(
    server: Server, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    judge = EndpointJudge(settings)
    server.statuses = [401]
    with pytest.raises(JudgeFailed) as failed:
        judge.judge(PAIRS[:1])
    seen = [str(failed.value), caplog.text, judge.name, repr(settings), json.dumps(server.seen[0][2])]
    assert not any(KEY in text for text in seen)
    assert "401" in str(failed.value)


def test_a_busy_endpoint_is_asked_again_and_a_refusing_one_is_not(server: Server, settings: Settings) -> None:
    server.statuses = [503, 429]
    assert EndpointJudge(settings).judge(PAIRS[:1])[0].verdict is Verdict.REFUSED
    assert len(server.seen) == 3
    server.statuses = [403]
    with pytest.raises(JudgeFailed, match="403"):
        EndpointJudge(settings).judge(PAIRS[:1])
    assert len(server.seen) == 4


def test_an_endpoint_that_says_neither_word_is_unclear_and_silence_is_not_asked_about(
    server: Server, settings: Settings
) -> None:
    server.says = "It depends."
    found = EndpointJudge(settings).judge([("How?", "Hm."), ("How?", "  ")])
    assert [(one.verdict, one.why) for one in found] == [("unclear", "said: It depends."), ("unclear", "no words")]
    assert len(server.seen) == 1


def test_what_an_endpoint_says_can_be_stored_whatever_it_is(server: Server, settings: Settings) -> None:
    server.says = "\ud800 broken"
    why = EndpointJudge(settings).judge([("How?", "So.")])[0].why
    assert why.encode().decode() == "said: ? broken"


def test_an_endpoint_must_be_configured(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="ROUTEPRINT_JUDGE_URL"):
        open_judge({"kind": "endpoint"}, Settings(home=tmp_path, judge_url="", judge_model=""), "cpu")
    with pytest.raises(JudgeFailed, match="no answer"):
        EndpointJudge(Settings(home=tmp_path, judge_url="http://127.0.0.1:9/v1", judge_model="x")).judge(PAIRS[:1])


def classifier(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label={0: "ANSWER", 1: "REFUSAL"},
        label2id={"ANSWER": 0, "REFUSAL": 1},
        initializer_range=0.5,
    )
    LlamaForSequenceClassification(config).eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_local_classifier_judges_by_the_class_that_is_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "models" / "org" / "judge")
    wanted = {"kind": "classifier", "model": "org/judge", "label": "REFUSAL", "reads": "answer"}
    judge = open_judge(wanted, Settings(home=tmp_path), "cpu")
    texts = [("p", f"Text number {i} of several, some longer than others{' and longer' * i}") for i in range(40)]
    found = judge.judge(texts)
    assert {one.verdict for one in found} == {Verdict.REFUSED, Verdict.ANSWERED}
    one_by_one = [judge.judge([pair])[0].verdict for pair in texts]
    assert [one.verdict for one in found] == one_by_one
    other = ClassifierJudge(folder, "org/judge", "ANSWER", pair=False, device="cpu").judge(texts)
    assert all(a.verdict != b.verdict for a, b in zip(found, other, strict=True))
    assert judge.name.startswith("classifier:org/judge:REFUSAL:answer:")
    pairs = ClassifierJudge(folder, "org/judge", "REFUSAL", pair=True, device="cpu").judge(texts)
    assert [p.why for p in pairs] != [f.why for f in found]


def test_a_classifier_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "judge")
    with pytest.raises(InvalidInput, match="ANSWER, REFUSAL"):
        ClassifierJudge(folder, "judge", "refusal", pair=False, device="cpu")
    with pytest.raises(NotFound, match="missing"):
        ClassifierJudge(tmp_path / "missing", "missing", "x", pair=False, device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotSupported, match="safetensors"):
        ClassifierJudge(folder, "judge", "REFUSAL", pair=False, device="cpu")


def test_our_phrases_are_the_judge_that_needs_nothing(tmp_path: Path) -> None:
    judge = open_judge({"kind": "phrases"}, Settings(home=tmp_path), "cpu")
    assert judge.name == PHRASE_JUDGE
    assert [one.verdict for one in judge.judge(PAIRS)] == ["refused", "answered", "refused"]
