"""From messages to token ids, and the digests that say which tokenizer and which template made them.

What a prompt is: the chat template applied with `add_generation_prompt=True`; for a tokenizer without a template its
plain encoding with its default special tokens. After: Routing, domain.md, Data 3. Not covered: padding (capture),
which tokens the template added (own_tokens.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from backend.domain.canonical import digest
from backend.domain.errors import InvalidInput
from backend.domain.prompts import Message
from worker.own_tokens import own_tokens
from worker.templates import render


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """ids: int32 [token], unpadded, as they will be fed. truncated: the prompt was longer than `max_length`.

    own: bool [token], whether it belongs to what the messages say and not to what the template added; None where every
    token counts.
    """

    ids: NDArray[np.int32]
    truncated: bool
    own: NDArray[np.bool_] | None = None


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    system_prompt: str | None = None,
    max_length: int | None = None,
    exclude_template_tokens: bool = False,
) -> EncodedPrompt:
    """Return a prompt's token ids, cut on the right at `max_length` tokens.

    A system prompt goes in front, joined with the row's own system message if it has one. exclude_template_tokens: say
    which tokens are the row's own, too; the system prompt's are not, and without a template all are. Raises
    InvalidInput where the chat template refuses the messages, or where no token comes out.
    """
    chat = _with_system(messages, system_prompt)
    ids = _apply_template(tokenizer, chat) if tokenizer.chat_template else _encode_plain(tokenizer, chat)
    if not ids:
        raise InvalidInput("A prompt becomes no token at all with this tokenizer; leave that row out.", ("messages",))
    cut = len(ids) if max_length is None else max_length
    own = None
    if exclude_template_tokens and tokenizer.chat_template:
        own = own_tokens(tokenizer, chat, _own_words(messages, chat), ids)[:cut]
    return EncodedPrompt(np.array(ids[:cut], dtype=np.int32), truncated=len(ids) > cut, own=own)


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int | None = None) -> NDArray[np.int32]:
    """Return the int32 ids of an answer with the end token behind it, cut on the right at `max_length` tokens.

    No other special token is added: an answer continues its prompt. Whether it was cut: `answer_is_cut`.
    """
    return np.array(_answer_ids(tokenizer, text)[:max_length], dtype=np.int32)


def answer_is_cut(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int | None) -> bool:
    """Return True if `encode_answer` leaves out tokens of this answer, its end token included."""
    return max_length is not None and len(_answer_ids(tokenizer, text)) > max_length


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | NDArray[np.int32]) -> str:
    """Return the text of answer ids without special tokens, and with NUL shown as the replacement character."""
    text = str(tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))
    return text.replace("\x00", "\ufffd")  # PostgreSQL refuses it, and every database is to hold the same


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> str:
    """Return the SHA-256 of the canonical content of `tokenizer.json`, or of the vocabulary where there is none.

    Padding and truncation settings are left out: using a tokenizer changes them, and they change no prompt here.
    """
    file = folder / "tokenizer.json" if folder else None
    if file and file.is_file():
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    elif tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
    else:
        return digest({"vocabulary": tokenizer.get_vocab()})
    return digest({key: value for key, value in content.items() if key not in {"padding", "truncation"}})


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of the chat template; None for a tokenizer without one."""
    return digest(tokenizer.chat_template) if tokenizer.chat_template else None


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id to pad with; padding is masked and never counted, so any id of the vocabulary does."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0


def _with_system(messages: Sequence[Message], system_prompt: str | None) -> list[dict[str, str]]:
    chat = [{"role": m.role, "content": m.content} for m in messages]
    if not system_prompt:
        return chat
    if chat[0]["role"] == "system":
        own = chat.pop(0)["content"]
        system_prompt = f"{system_prompt}\n\n{own}"
    return [{"role": "system", "content": system_prompt}, *chat]


def _own_words(messages: Sequence[Message], chat: Sequence[dict[str, str]]) -> list[str]:
    """Return what of each message of the chat its row said itself: nothing of a system message put in front."""
    return ["" for _ in range(len(chat) - len(messages))] + [m.content for m in messages]


def _apply_template(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> list[int]:
    """As apply_chat_template does it, but with the text in hand between its two halves, and the first one limited."""
    text = render(tokenizer, chat)
    if type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert isinstance(encoded, Mapping)
    return list(encoded["input_ids"])


def _encode_plain(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> list[int]:
    return list(tokenizer("\n\n".join(m["content"] for m in chat))["input_ids"])


def _answer_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else ids
