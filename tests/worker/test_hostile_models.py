"""Folders of models that are made to break the worker: refused by name, in bounded time and memory."""

import itertools
import json
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from backend.domain.errors import InvalidInput, NotSupported
from backend.domain.prompts import Message
from backend.settings import Settings
from tests.worker.tiny import save_tiny, tiny_tokenizer
from worker import folders, templates
from worker.judging import open_judge
from worker.limits import LimitReached, limited
from worker.models import inspect_model, load_tokenizer, model_source, scan_models
from worker.prompts import encode_prompt

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SWALLOWS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" * 3
ASKED_FOR = "{% for i in range(10**9) %}{{ i }}{% endfor %}"
FILLS = "{{ 'x' * (10 ** 10) }}"
FILLS_SLOWLY = "{% set n = namespace(t='x') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
COUNTS = "{{ 9 ** (9 ** 9) }}"
LONG = "{% for a in range(99999) %}{{ messages[0].content * 9 }}{% endfor %}"
DEEP = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"
REACHES_OUT = "{{ ''.__class__.__mro__[1].__subclasses__() }}"

# The alarm that ends such work can strike while the garbage collector calls back; Python swallows an error there and
# says so on stderr, and the next alarm ends the work (worker/limits.py).
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)


@pytest.mark.parametrize(
    "template", [ENDLESS, SWALLOWS, ASKED_FOR, FILLS, FILLS_SLOWLY, COUNTS, LONG, DEEP, REACHES_OUT, "{% for %}"]
)
def test_a_hostile_template_is_refused_in_bounded_time_and_memory(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InvalidInput, match="chat template"):
        encode_prompt(tokenizer, (Message("user", "Hi there"),))
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024  # kilobytes


def test_what_was_limited_before_is_limited_as_before_afterwards() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(LimitReached, match=r"0\.05 s"), limited(0.05, 2**28):
        all(True for _ in itertools.count())
    with pytest.raises(LimitReached, match="64 MiB"), limited(5, 2**26):
        bytearray(2**28)
    with pytest.raises(KeyError), limited(5, 2**28):
        raise KeyError
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == (limits, handler)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_thread_of_its_own_works_without_a_timer() -> None:
    heard: list[str] = []

    def work() -> None:
        with limited(1, 2**28):
            heard.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == ["worked"]


@pytest.mark.parametrize("template", [ENDLESS, FILLS, "{# " + "x" * templates.MAX_TEMPLATE + " #}"])
def test_the_scan_refuses_a_model_whose_template_never_ends(tmp_path: Path, template: str) -> None:
    folder = save_tiny(tmp_path / "m", "olmoe")
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    scanned = inspect_model(folder)
    assert not scanned.supported
    assert "chat template" in str(scanned.reason)


def test_the_scan_does_not_mind_a_template_that_refuses_a_role(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "olmoe")
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{{ raise_exception('no') if messages[0].role == 'system' else messages[0].content }}"
    tokenizer.save_pretrained(folder)
    assert inspect_model(folder).supported


def test_a_configuration_of_endless_layers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.SCAN_SECONDS", 1.0)
    folder = save_tiny(tmp_path / "m", "olmoe")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 10**8}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    scanned = inspect_model(folder)
    assert not scanned.supported
    assert "OlmoeForCausalLM was given up" in str(scanned.reason)


def test_a_configuration_too_large_to_be_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_CONFIG", 100)
    (tmp_path / "config.json").write_text("{" + " " * 200 + "}")
    assert "larger than" in str(inspect_model(tmp_path).reason)


def test_a_link_that_leads_out_of_the_models_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = save_tiny(tmp_path / "elsewhere" / "m", "olmoe")
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    (models / "a-link").symlink_to(elsewhere)
    (models / "org" / "b-link").symlink_to(elsewhere)
    inside = save_tiny(models / "org" / "inside", "olmoe")
    half = save_tiny(models / "half", "olmoe")
    (half / "generation_config.json").unlink(missing_ok=True)
    (half / "generation_config.json").symlink_to("/etc/passwd")
    (models / "same").symlink_to(inside)
    found = {m.id: m for m in scan_models(models)}
    assert {id_ for id_, m in found.items() if m.supported} == {"org/inside", "same"}
    assert all("leads out of the models folder" in str(found[id_].reason) for id_ in ("a-link", "org/b-link", "half"))
    assert found["a-link"].weights_digest is None, "nothing outside is read"


@pytest.mark.parametrize("name", ["../../etc", "http://evil.example/m", "a/b/c", "a", "/etc/passwd", "a/..", "org/m\n"])
def test_what_is_no_name_of_the_hub_is_never_looked_for_there(name: str) -> None:
    with pytest.raises(InvalidInput, match="<organisation>/<model>"):
        model_source(f"hub:{name}", allow_hub=True)
    with pytest.raises(NotSupported, match="ROUTEPRINT_ALLOW_HUB"):
        model_source("hub:org/model", allow_hub=False)
    assert model_source("hub:org/model-1.5", allow_hub=True) == ("org/model-1.5", False)


def test_a_judge_that_leads_out_of_the_models_folder_is_not_loaded(tmp_path: Path) -> None:
    elsewhere = save_tiny(tmp_path / "elsewhere", "llama")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "judge").symlink_to(elsewhere)
    settings = Settings(home=tmp_path)
    for name in ("judge", "../elsewhere"):
        wanted = {"kind": "classifier", "model": name, "label": "x", "reads": "answer"}
        with pytest.raises(NotSupported, match="leads out of the models folder"):
            open_judge(wanted, settings, "cpu")
