"""The domain's error tree. Pure: the web layer gives each class its HTTP status (backend/errors.py).

RouteprintError
  InvalidInput          what the user gave is wrong: says what, where, and what to do
    ImportRefused       a file's rows cannot be imported: carries the problems by row number
    PlanImpossible      a batch plan cannot be made from these rows
    RuleInvalid         an expert-set rule that cannot be applied
  NotSupported          the model or request is understood and refused, by name
  NotFound              no such thing
  Conflict              the thing exists but is in the wrong state
    TakenOver           another worker does this work now
  NoTokens              a rate was asked for where no token was counted
  Unreachable           the database server does not answer
  ProvenanceBroken      a link of the chain does not hold: the run stops
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RouteprintError(Exception):
    """Root of every error this project raises on purpose. `str()` of it is fit to show to a user."""


class InvalidInput(RouteprintError):
    """What the user gave is wrong. `loc` is the path to the field, as in a JSON body."""

    def __init__(self, message: str, loc: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.loc = tuple(loc)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One problem in an uploaded file. `row` counts data rows from 1; 0 is the file itself."""

    row: int
    message: str
    file: str = ""
    column: str = ""


class ImportRefused(InvalidInput):
    """A prompt set cannot be imported; nothing was stored. Carries every problem (capped by the caller)."""

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        where = f"row {first.row}: " if first.row else ""
        more = f" (and {len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
        super().__init__(f"{where}{first.message}{more}", ("file",))


class PlanImpossible(InvalidInput):
    """No batch plan exists for these rows and settings."""


class RuleInvalid(InvalidInput):
    """An expert-set rule that cannot be applied to this analysis."""


class NotSupported(RouteprintError):
    """The request is understood and refused by name: a dense model, a router that drops tokens, a missing engine."""


class NotFound(RouteprintError):
    """No such thing."""

    def __init__(self, what: str, id_: str | int) -> None:
        super().__init__(f"There is no {what} {id_!r}.")
        self.what, self.id = what, id_


class Conflict(RouteprintError):
    """The thing exists but is in the wrong state for this request."""


class TakenOver(Conflict):
    """Another worker does this work now, or it is over: what was about to be written was not."""

    def __init__(self, work: str) -> None:
        self.work = work
        super().__init__(f"{work} was taken over by another worker, or has ended: nothing more is written here.")


class NoTokens(RouteprintError):
    """A rate was asked for where no token was counted."""


class Unreachable(RouteprintError):
    """The database server does not answer, or does not let us in."""


class ProvenanceBroken(RouteprintError):
    """A link of the provenance chain does not hold. Names the batch and the samples."""
