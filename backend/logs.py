"""How services log: lines for people on a terminal, one JSON object a line elsewhere, each with the ids it is about.

Never in a line: prompts, answers, tokens, queries of addresses. Not covered: where the lines go (standard error).
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, TextIO

Format = Literal["auto", "text", "json"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default=MappingProxyType({}))
_OURS = "routeprint_"
_CHATTY = ("alembic", "dbos", "httpx", "httpx2", "httpcore", "uvicorn")


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Add ids (request_id, job_id, ...) to every line that is logged within the block, threads it starts excepted."""
    before = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(before)


def bind(**ids: str) -> None:
    """Add ids to every line that this task, or this thread, logs from here on."""
    _ids.set({**_ids.get(), **ids})


def present() -> dict[str, str]:
    """Return the ids that lines carry here."""
    return dict(_ids.get())


def facts(**values: object) -> dict[str, object]:
    """Return named values as `extra=` takes them: they stand beside the message, each under its name."""
    return {f"{_OURS}{name}": value for name, value in values.items()}


def _beside(record: logging.LogRecord) -> dict[str, object]:
    given = {name.removeprefix(_OURS): value for name, value in vars(record).items() if name.startswith(_OURS)}
    return {**present(), **given}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the ids and facts, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | _beside(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Text(logging.Formatter):
    """A line for people; the ids and facts stand at its end. Control characters never reach the terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """Return the line without a traceback."""
        beside = "".join(f" {name}={value}" for name, value in _beside(record).items())
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in super().formatMessage(record) + beside)


def configure(form: Format = "auto", level: Level = "INFO", stream: TextIO | None = None) -> None:
    """Send the lines of this process to standard error. auto: text on a terminal, JSON elsewhere."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    text = form == "text" or (form == "auto" and stream.isatty())
    handler.setFormatter(Text() if text else JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


def adopt(name: str) -> None:
    """Let a library that brings a handler of its own log as we do."""
    theirs = logging.getLogger(name)
    for handler in list(theirs.handlers):
        theirs.removeHandler(handler)
    theirs.propagate = True
