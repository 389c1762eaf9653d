"""Which tokens of a prompt hold what its messages say, and which the chat template added.

The template is rendered a second time with a mark before and after each message's own words. Where taking the marks
out again gives exactly the prompt, they say where those words stand: also where the template trims them, says them
twice, or where the same words stand elsewhere in it. Nothing is searched for, nothing is guessed: a template that does
something else with them is refused by name. After: Routing, domain.md, Data 3. Not covered: the cut (prompts.py).
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from backend.domain.errors import InvalidInput
from worker.templates import render

Chat = list[dict[str, str]]
Span = tuple[int, int]
Marks = tuple[str, str]

_LOC = ("exclude_template_tokens",)
_PRIVATE = range(0xF0000, 0xF0400)  # no script, no emoji, no tokenizer's own sign stands there
_ADVICE = "Leave exclude_template_tokens false for this model."


def own_tokens(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, own: Sequence[str], ids: Sequence[int]
) -> NDArray[np.bool_]:
    """Return bool [token]: whether a token of the prompt `ids` holds at least one character of its messages' own words.

    chat: as the template gets it; own: the end of each message's content that is its own ("" for none). A token that
    straddles own words and template counts as own. Raises InvalidInput where this cannot be told for certain.
    """
    text = render(tokenizer, chat)
    tokens = _spans_of_tokens(tokenizer, text, ids)
    inside = np.zeros(len(text) + 1, dtype=np.int64)
    for start, stop in own_spans(partial(render, tokenizer), text, chat, own):
        inside[start + 1 : stop + 1] = 1
    before = np.cumsum(inside)  # [character]: how many of the text's first characters are own
    starts, stops = tokens[:, 0], tokens[:, 1]
    # A token of no character (a tokenizer's own sign) is own where it stands between two own characters.
    within = (starts == stops) & (inside[starts] > 0) & (inside[np.minimum(starts + 1, len(text))] > 0)
    mask: NDArray[np.bool_] = (before[stops] > before[starts]) | within
    return mask


def own_spans(render: Callable[[Chat], str], text: str, chat: Chat, own: Sequence[str]) -> list[Span]:
    """Return where the messages' own words stand in the rendered `text`: [start, stop) of characters, in order."""
    unused = (chr(code) for code in _PRIVATE if chr(code) not in text)
    marks: Marks = (next(unused), next(unused))
    outside = [_marked(m["content"], words, marks) for m, words in zip(chat, own, strict=True)]
    marked = render(_with(chat, outside))
    if _unmarked(marked, marks) != text:  # some message is trimmed, or worse: look at each alone
        chosen = [_fitting(render, text, chat, place, own[place], marks) for place in range(len(chat))]
        marked = render(_with(chat, chosen))
    if _unmarked(marked, marks) != text:
        raise InvalidInput(f"The chat template reads one message in the light of another. {_ADVICE}", _LOC)
    return _between(marked, marks)


def _fitting(render: Callable[[Chat], str], text: str, chat: Chat, place: int, own: str, marks: Marks) -> str:
    """Return a message's content with marks that leave the prompt as it is: around all its own words, or without the
    white space at their ends where the template trims it.
    """
    content = chat[place]["content"]
    inner = [_marked(content, own, marks, trimmed=True)] if own.strip() else [content]
    for candidate in [_marked(content, own, marks), *inner]:
        contents = [m["content"] for m in chat]
        contents[place] = candidate
        if _unmarked(render(_with(chat, contents)), marks) == text:
            return candidate
    raise InvalidInput(
        f"The chat template changes what a message of the role {chat[place]['role']!r} says, so its own tokens cannot "
        f"be told from the template's. {_ADVICE}",
        _LOC,
    )


def _marked(content: str, own: str, marks: Marks, *, trimmed: bool = False) -> str:
    """Put marks around the own words, which end the content; around nothing if there are none."""
    if not own:
        return content
    head, words, tail = content[: len(content) - len(own)], own, ""
    if trimmed:
        words = own.strip()
        lead, tail = own[: len(own) - len(own.lstrip())], own[len(own.rstrip()) :]
        head += lead
    return f"{head}{marks[0]}{words}{marks[1]}{tail}"


def _with(chat: Chat, contents: Sequence[str]) -> Chat:
    return [m | {"content": content} for m, content in zip(chat, contents, strict=True)]


def _unmarked(text: str, marks: Marks) -> str:
    return text.replace(marks[0], "").replace(marks[1], "")


def _between(text: str, marks: Marks) -> list[Span]:
    """Return what stands between an opening and a closing mark, in positions of the text without marks."""
    spans, place, opened = [], 0, -1
    for char in text:
        if char == marks[0] and opened < 0:
            opened = place
        elif char == marks[1] and opened >= 0:
            spans.append((opened, place))
            opened = -1
        elif char in marks:
            opened = -2
            break
        else:
            place += 1
    if opened != -1:
        raise InvalidInput(f"The chat template says only a part of a message. {_ADVICE}", _LOC)
    return spans


def _spans_of_tokens(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
    """Return int64 [token, 2], the characters that each token of a rendered prompt holds. Raises InvalidInput."""
    if not tokenizer.is_fast:
        raise InvalidInput(
            "This tokenizer does not say which characters a token holds, so what the chat template added cannot be "
            f"left out. {_ADVICE}",
            _LOC,
        )
    found = _bare(tokenizer.backend_tokenizer).encode(text, add_special_tokens=False)
    if found.ids != list(ids):
        raise InvalidInput(
            "The tokenizer makes other tokens of the rendered chat template than the template itself gives, so "
            f"what the template added cannot be left out. {_ADVICE}",
            _LOC,
        )
    return np.array(found.offsets, dtype=np.int64).reshape(-1, 2)


@lru_cache(maxsize=2)
def _bare(backend: Tokenizer) -> Tokenizer:
    """Return the tokenizer without what happens after the tokens are made: some of that trims white space off the
    spans, so that a line break would seem to hold no character.
    """
    bare = copy.deepcopy(backend)
    bare.post_processor = None
    bare.no_truncation()
    bare.no_padding()
    return bare
