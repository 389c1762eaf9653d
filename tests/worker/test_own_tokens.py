"""Which tokens of a prompt are its own: checked against templates that trim, repeat, add words and look at messages."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from backend.domain.errors import InvalidInput
from backend.domain.prompts import Message
from tests.worker.tiny import SPECIAL, TEXTS, tiny_tokenizer
from worker.own_tokens import own_spans
from worker.prompts import encode_prompt

GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = tiny_tokenizer().chat_template
TRIMS = "{% for m in messages %}<|{{ m['role'] }}|>\n\n{{ m['content'] | trim }}<|end|>{% endfor %}" + GENERATION
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|system|>You are a helpful friend. Hi!<|end|>{% endif %}" + PLAIN
)
SAYS_TWICE = "<|system|>The user asks: {{ messages[-1]['content'] }}<|end|>" + PLAIN
MERGES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}[INST] {{ (first if loop.first else '') + m['content'] }} [/INST]{% endfor %}"
)
DROPS_THOUGHT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}{% endfor %}"
SHORTENS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'][:20] }}{% endfor %}"
SHOUTS = "{% for m in messages %}{{ m['content'] ~ m['content'] | length }}{% endfor %}"
TEMPLATES = {"plain": PLAIN, "trims": TRIMS, "default system": DEFAULT_SYSTEM, "twice": SAYS_TWICE}
TEMPLATES |= {"merges system": MERGES_SYSTEM}

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
said = st.one_of(
    words, st.sampled_from(["", "  ", "\n hi \n", "user", "<|end|>", "Hi!", "You are", "INST", "é😀", *TEXTS])
)
chats = st.lists(said, min_size=1, max_size=4).map(
    lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
)


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def own_text(tokenizer: PreTrainedTokenizerFast, *messages: Message, **settings: Any) -> str:
    prompt = encode_prompt(tokenizer, messages, exclude_template_tokens=True, **settings)
    assert prompt.own is not None
    return str(tokenizer.decode(prompt.ids[prompt.own]))


BYTES = tiny_tokenizer()


@given(chats)
def test_own_tokens_are_those_that_each_message_becomes_by_itself(chat: list[dict[str, str]]) -> None:
    # Special tokens part a message from its surroundings, so what it becomes alone is what it becomes in the prompt.
    expected = []
    for message in chat:
        own = BYTES(message["content"], add_special_tokens=False)["input_ids"]
        expected += [0, *[1] * len(own), 0]
    messages = [Message(m["role"], m["content"]) for m in chat]
    prompt = encode_prompt(BYTES, messages, exclude_template_tokens=True)
    assert prompt.own is not None
    assert prompt.own.astype(int).tolist() == [*expected, 0]
    plain = encode_prompt(BYTES, messages)
    assert plain.own is None
    assert plain.ids.tolist() == prompt.ids.tolist()


@given(st.sampled_from(sorted(TEMPLATES)), chats)
def test_own_spans_say_what_the_messages_say_wherever_it_stands(name: str, chat: list[dict[str, str]]) -> None:
    tokenizer = tokenizer_with(TEMPLATES[name])

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    text = render(chat)
    own = [m["content"] for m in chat]
    spans = own_spans(render, text, chat, own)
    expected = [words.strip() if name == "trims" else words for words in own]
    expected = ([own[-1]] if name == "twice" else []) + expected
    assert [text[a:b] for a, b in spans if b > a] == [words for words in expected if words]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_adds_is_left_out_also_where_it_says_the_same(name: str) -> None:
    found = own_text(tokenizer_with(TEMPLATES[name]), Message("user", "Hi!"))
    assert found.replace("[INST]", "").strip() == ("Hi!Hi!" if name == "twice" else "Hi!")


def test_a_system_prompt_of_the_request_is_left_out_and_the_rows_own_is_not() -> None:
    messages = (Message("system", "Be kind."), Message("user", "Hi there"))
    tokenizer = tokenizer_with(PLAIN)
    assert own_text(tokenizer, *messages, system_prompt="Be kind. Be brief.") == "Be kind.Hi there"
    assert own_text(tokenizer, messages[1], system_prompt="Hi there") == "Hi there"
    assert own_text(tokenizer_with(TRIMS), *messages, system_prompt="Be brief.") == "Be kind.Hi there"


def test_a_token_that_straddles_template_and_message_counts() -> None:
    tokenizer = tokenizer_with("{% for m in messages %} {{ m['content'] }}{% endfor %}" + GENERATION)
    assert own_text(tokenizer, Message("user", "the sea")) == " the sea"


def test_white_space_at_the_ends_counts_where_the_template_keeps_it() -> None:
    message = Message("user", " \n the sea \n\n")
    assert own_text(tokenizer_with(PLAIN), message) == message.content
    assert own_text(tokenizer_with(TRIMS), message) == "the sea"
    assert own_text(tokenizer_with(TRIMS), message, system_prompt=" Be brief. ") == "the sea"


def test_a_cut_prompt_keeps_the_marks_of_what_is_left() -> None:
    tokenizer = tokenizer_with(PLAIN)
    whole = encode_prompt(tokenizer, (Message("user", TEXTS[5]),), exclude_template_tokens=True)
    cut = encode_prompt(tokenizer, (Message("user", TEXTS[5]),), exclude_template_tokens=True, max_length=7)
    assert whole.own is not None
    assert cut.own is not None
    assert cut.own.tolist() == whole.own.tolist()[:7] == [False, *[True] * 6]


def test_an_empty_message_has_no_token_of_its_own() -> None:
    for template in TEMPLATES.values():
        assert own_text(tokenizer_with(template), Message("user", "")) == ""


def test_without_a_template_every_token_counts() -> None:
    tokenizer = tiny_tokenizer(template=False)
    assert encode_prompt(tokenizer, (Message("user", "Hi"),), exclude_template_tokens=True).own is None


def test_a_tokenizer_that_trims_its_spans_loses_no_white_space() -> None:
    tokenizer = tokenizer_with(PLAIN)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert own_text(tokenizer, Message("user", "\n\n the sea \n")) == "\n\n the sea \n"


def test_a_tokenizer_that_marks_the_start_of_words_is_read_too() -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL)))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = PLAIN
    assert own_text(tokenizer, Message("user", "the sea"), system_prompt="the wind") == "the sea"


@pytest.mark.parametrize(
    ("template", "text", "said"),
    [
        (SHORTENS, "Write a short poem about the sea.", "changes what a message of the role 'user' says"),
        (DROPS_THOUGHT, "First I think. </think> Then I speak.", "only a part"),
        (SHOUTS, "Hi!", "changes what a message of the role 'user' says"),
    ],
)
def test_a_template_that_does_something_else_with_a_message_is_refused_by_name(
    template: str, text: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as error:
        own_text(tokenizer_with(template), Message("user", text))
    assert error.value.loc == ("exclude_template_tokens",)
    assert "Leave exclude_template_tokens false" in str(error.value)


def test_ids_that_are_not_those_of_the_rendered_text_are_refused() -> None:
    from worker.own_tokens import own_tokens

    tokenizer = tokenizer_with(PLAIN)
    chat = [{"role": "user", "content": "Hi!"}]
    with pytest.raises(InvalidInput, match="other tokens"):
        own_tokens(tokenizer, chat, ["Hi!"], [1, 2, 3])
