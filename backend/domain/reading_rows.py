"""One raw row and a mapping make one prompt row, or the problem that a person must solve."""

import json
import math
from collections.abc import Sequence
from typing import Any

from backend.domain.errors import RowProblem
from backend.domain.mappings import LEAVE_OUT, Mapping, label_problem
from backend.domain.prompts import ROLES, Message, PromptRow, is_storable
from backend.domain.reading_json import DECODER
from backend.domain.reading_lines import MAX_LINE, Cells, reason, shown
from backend.domain.vocabulary import Label

BEFORE, AFTER = "\n\n---\n\n", "\n\n"
"""Between a context and the prompt behind it, and between a prompt and the input behind it."""

_OPTIONAL = ("category", "difficulty", "group", "source")
_ROLE_KEYS = (("role", "content"), ("from", "value"))
_ROLE_NAMES = {"human": "user", "gpt": "assistant", **{role: role for role in ROLES}}


class RowRefused(Exception):
    """Why a row cannot be used. column: the file's column at fault, empty where it is the row."""

    def __init__(self, message: str, column: str = "") -> None:
        super().__init__(message)
        self.column = column


class RowLeftOut(Exception):
    """A row that the mapping leaves out. reason: a word of LEAVE_OUT."""

    def __init__(self, reason: str) -> None:
        super().__init__(LEAVE_OUT[reason])
        self.reason = reason


def make_row(cells: Cells, mapping: Mapping, label: Label) -> PromptRow:
    """Return the prompt row. Raises RowRefused, RowLeftOut."""
    columns = mapping.columns
    response = _text(cells, columns.get("response"), first_of_list=True)
    if "messages" in columns:
        messages, response = _chat(cells, columns["messages"], response)
    else:
        messages = (Message("user", _whole_prompt(cells, mapping)),)
    rest = {name: _text(cells, columns.get(name)) for name in _OPTIONAL}
    rest["source"] = rest["source"] or mapping.source
    return PromptRow(messages, label, response, **rest)


def label_of(cells: Cells, mapping: Mapping, given: Label | None) -> Label | None:
    """Return the row's label; None if neither the row nor the caller says. given: the label of the whole file.

    Raises RowRefused for a value that is not understood (unless the file's label is given) or contradicts it,
    RowLeftOut for a row without a label where the mapping says so.
    """
    given = given or mapping.fixed_label
    column = mapping.columns.get("label")
    if column is None:
        return given
    raw = cells.get(column)
    label = None if _missing(raw) else mapping.label_of(raw)
    if given and label and label is not given:
        raise RowRefused(f"The row says {label}, but the file was given as {given}.", column)
    if label or given:
        return label or given
    if _missing(raw) and "unlabelled" in mapping.leave_out:
        raise RowLeftOut("unlabelled")
    raise RowRefused("The label is missing." if _missing(raw) else label_problem(raw), column)


def problem(row: int, error: RowRefused, file: str) -> RowProblem:
    """Return the problem with its place."""
    return RowProblem(row, str(error), file, error.column)


def _missing(raw: object) -> bool:
    return raw is None or (isinstance(raw, str) and not raw.strip()) or (isinstance(raw, float) and math.isnan(raw))


def _whole_prompt(cells: Cells, mapping: Mapping) -> str:
    """Return the prompt with what belongs to it: a context above a line of dashes, an input after an empty line."""
    columns = mapping.columns
    prompt = _prompt(cells, columns["prompt"])
    if "redacted" in mapping.leave_out and prompt.strip() == "REDACTED":
        raise RowLeftOut("redacted")
    before, after = (_text(cells, columns.get(name)) for name in ("before", "after"))
    if not before and not after:
        return prompt
    whole = (before + BEFORE if before else "") + prompt + (AFTER + after if after else "")
    return _checked(whole, columns["prompt"])


def _prompt(cells: Cells, column: str) -> str:
    raw = cells.get(column)
    if isinstance(raw, list) and column.strip().casefold() == "turns":  # FastChat's way to store a question
        turns = [turn for turn in raw if not _missing(turn)]
        if len(turns) > 1:
            raise RowRefused(f"The prompt has {len(turns)} turns, and the answers between them are missing.", column)
        raw = turns[0] if turns else None
    if _missing(raw):
        raise RowRefused("The prompt is missing.", column)
    if not isinstance(raw, str):
        raise RowRefused(f"The prompt must be text, not {_kind(raw)}.", column)
    return _checked(raw, column)


def _text(cells: Cells, column: str | None, *, first_of_list: bool = False) -> str | None:
    """Return a cell as text, None if it is empty. A list of words is joined; of several answers the first is meant.

    An object of truth values stands for the names of those that are true.
    """
    if column is None:
        return None
    raw = cells.get(column)
    if isinstance(raw, str):  # most cells are text
        return _checked(raw, column) if raw.strip() else None
    if isinstance(raw, dict) and all(isinstance(value, bool) for value in raw.values()):
        raw = [name for name, is_so in raw.items() if is_so]
    if isinstance(raw, Sequence):
        parts = [_scalar(item, column) for item in raw if not _missing(item)]
        raw = (parts[0] if first_of_list else ", ".join(parts)) if parts else None
    return None if _missing(raw) else _scalar(raw, column)


def _scalar(raw: Any, column: str) -> str:
    if isinstance(raw, str):
        return _checked(raw, column)
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():  # what a nullable column makes of whole numbers
        return str(int(raw))
    if isinstance(raw, int | float):
        return str(raw)
    raise RowRefused(f"A text or a number is needed here, not {_kind(raw)}.", column)


def _checked(text: str, column: str) -> str:
    if len(text) > MAX_LINE:
        raise RowRefused(f"The text is longer than {MAX_LINE:,} characters.", column)
    if "\x00" in text:
        raise RowRefused(f"The text holds a NUL character at position {text.index(chr(0))}.", column)
    if not is_storable(text):
        at = next(n for n, char in enumerate(text) if "\ud800" <= char <= "\udfff")
        raise RowRefused(f"The text is not UTF-8 (or holds half a surrogate pair) at position {at}.", column)
    return text


def _chat(cells: Cells, column: str, response: str | None) -> tuple[tuple[Message, ...], str | None]:
    """Return the messages up to the user's last, and the response: a last message of the assistant is one."""
    messages = [_message(turn, n, column) for n, turn in enumerate(_turns(cells.get(column), column), 1)]
    if messages[-1].role == "assistant":
        if response is not None and response != messages[-1].content:
            raise RowRefused("The chat ends with an answer, and the response column holds another one.", column)
        response = messages.pop().content
    roles = [message.role for message in messages]
    if "user" not in roles:
        raise RowRefused("The chat has no message of the user.", column)
    if "system" in roles[1:]:
        raise RowRefused("A system message may only be the first of a chat.", column)
    if roles[roles[0] == "system"] != "user" or roles[-1] != "user":
        raise RowRefused(f"A chat must begin and end with the user, not be {', '.join(roles[:8])}.", column)
    return tuple(messages), response


def _turns(raw: Any, column: str) -> list[Any]:
    if _missing(raw):
        raise RowRefused("The messages are missing.", column)
    if isinstance(raw, str):  # a CSV cell holds them as JSON
        try:
            raw = DECODER.decode(raw)
        except (ValueError, RecursionError) as error:
            raise RowRefused(f"The messages are not JSON: {reason(error)}.", column) from None
    if not isinstance(raw, list) or not raw:
        raise RowRefused('Messages are a list such as [{"role": "user", "content": "..."}].', column)
    return raw


def _message(turn: Any, n: int, column: str) -> Message:
    keys = next((keys for keys in _ROLE_KEYS if isinstance(turn, dict) and set(keys) <= set(turn)), None)
    if keys is None:
        raise RowRefused(f"Message {n} has no `role` and `content`.", column)
    role, content = turn[keys[0]], turn[keys[1]]
    if not isinstance(role, str) or role not in _ROLE_NAMES:
        known = ", ".join(ROLES)
        raise RowRefused(f"Message {n} has the role {shown(str(role))}; it must be one of {known}.", column)
    if not isinstance(content, str) or not content.strip():
        what = "no content" if _missing(content) else f"content that is {_kind(content)}, not text"
        raise RowRefused(f"Message {n} has {what}.", column)
    return Message(_ROLE_NAMES[role], _checked(content, column))


def _kind(raw: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(raw), type(raw).__name__)


def printable(raw: Any, longest: int = 2000) -> Any:
    """Return a cell as JSON that any client can show: long text cut, broken characters replaced, the rest as text."""
    if isinstance(raw, str):
        text = raw if len(raw) <= longest else raw[:longest] + "…"
        return text if is_storable(text) else text.encode("utf-8", errors="replace").decode().replace("\x00", "�")
    if raw is None or isinstance(raw, bool | int):
        return raw
    if isinstance(raw, float):
        return raw if math.isfinite(raw) else str(raw)
    if isinstance(raw, list | dict):
        text = json.dumps(raw, ensure_ascii=False, default=str)
        return raw if len(text) <= longest and is_storable(text) else printable(text, longest)
    return printable(str(raw), longest)
