"""What every noun's requests and answers share: bounded fields, clean text, lists, progress, problems.

A request field never takes what it cannot use: unknown fields, NaN, NUL, lone surrogates and numbers out of range are
refused with their place.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_INT = 2**31 - 1
T = TypeVar("T")


def clean_text(value: str) -> str:
    """Refuse what no database and no JSON document can hold."""
    if "\x00" in value:
        raise ValueError("must not hold a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must not hold broken Unicode (a lone surrogate)")
    return value


Clean = AfterValidator(clean_text)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Clean]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60), Clean]
Text = Annotated[str, StringConstraints(max_length=20_000), Clean]
Id = Annotated[str, StringConstraints(min_length=1, max_length=100), Clean]
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=300), Clean]
Flag = Annotated[bool, Field(strict=True)]
Priority = Annotated[
    int, Field(strict=True, ge=1, le=1000, description="Among what waits for the same workers, the smaller goes first.")
]

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
LabelWord = Literal["safe", "unsafe"]
ScopeWord = Literal["prompt", "response", "last"]
PoolWord = Literal["mean", "pooled"]


class Request(BaseModel):
    """Root of every request body."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """Root of every answer. A number that is not there is null, never NaN."""

    model_config = ConfigDict(ser_json_inf_nan="null")


class Listing(Answer, Generic[T]):
    """A page of things. `next_cursor` goes into `?cursor=` for the next page; null: this was the last."""

    items: list[T]
    next_cursor: str | None


class ProblemError(Answer):
    """One wrong field."""

    loc: list[str | int]
    msg: str


class Problem(Answer):
    """RFC 9457 problem details: the body of every error."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemError]


class Progress(Answer):
    """How far a long piece of work is. `eta_seconds` is null until it can be told."""

    done: int
    total: int
    eta_seconds: float | None
    stage: str


class SiteOut(Answer):
    """One place in a model where a router chooses experts. `layer` is the model's own number."""

    layer: int
    site: str
    n_experts: int
    top_k: int
    trainable: bool


class LinkOut(Answer):
    """One link of the provenance chain."""

    name: str
    ok: bool
    checked: int
    expected: str | None
    found: str | None
    where: str | None


class VerificationOut(Answer):
    """Every link of the chain, and the first that does not hold."""

    ok: bool
    links: list[LinkOut]
    first_break: LinkOut | None


class RunnablePatch(Request):
    """What may be changed afterwards. A field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "first look", "tags": ["demo"]}]})

    name: Name | None = None
    tags: Annotated[list[Word], Field(max_length=50)] | None = None
    notes: Text | None = None


class RunnableOut(Answer):
    """What every long-running resource says about itself."""

    id: str
    name: str
    tags: list[str]
    notes: str
    status: Status
    stage: str
    progress: Progress
    error: str | None
    environment: dict[str, Any]
    created_at: str
    started_at: str | None
    finished_at: str | None
    deleted_at: str | None
    job_id: str | None


class TagOut(Answer):
    """A tag, and how many of a list have it. Deleted ones do not count."""

    tag: str
    n: int
