"""The report of an analysis: one file to read, to print and to paste, made from the stored record."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from backend.api.edge import PROBLEMS, Here, PathId
from backend.api.formats import IfNoneMatch, etag, file_response, unchanged
from backend.api.schemas.common import Clean, PoolWord, ScopeWord
from backend.domain.report.as_html import POLICY
from backend.domain.report.compose import ReportFormat, report
from backend.domain.vocabulary import Pool, Scope
from backend.store import analyses, reports, runs
from backend.store import tables as t

router = APIRouter(prefix="/analyses/{analysis_id}", tags=["analyses"], responses=PROBLEMS)

REPORT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}, "text/markdown": {}}, "description": "The file."}
}
Format = Annotated[ReportFormat, Query(description="html: one self-contained page; md: the same in Markdown.")]
_MEDIA_TYPES = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8"}


def report_response(content: bytes, format: ReportFormat, name: str, if_none_match: str | None) -> Response:  # noqa: A002
    """Return a report as a file that loads nothing, or 304 where the client has it already."""
    tag = etag(content)
    if (same := unchanged(tag, if_none_match)) is not None:
        return same
    answer = file_response(content, _MEDIA_TYPES[format], f"routeprint-{name}.{format}", tag)
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


@router.get("/report", response_class=Response, responses=REPORT)
def get_report(
    here: Here,
    analysis_id: PathId,
    format: Format = "html",  # noqa: A002 - the query parameter's name
    scope: ScopeWord = "prompt",
    pool: PoolWord = "mean",
    statistics_id: Annotated[
        str | None, Query(max_length=100, description="Of this scope and pool; left out, the newest finished."), Clean
    ] = None,
    examples: Annotated[bool, Query(description="Show five prompts of each label; else no prompt is shown.")] = False,
    verify: Annotated[bool, Query(description="Check the whole chain and report every link; takes a while.")] = True,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return a report with method, versions and hashes, results, caveats and how to do it again.

    It holds no text of the prompt set unless `examples` is true, loads nothing from anywhere, and comes out the same,
    byte for byte, as long as what is stored is the same. Without finished statistics of this scope and pool it says
    so, and calls nothing significant.
    """
    with here.reading() as session:
        analysis = runs.get(session, t.Analysis, analysis_id)
        analyses.check_scope(analysis, scope)
        facts = reports.gather(
            session,
            analysis,
            Scope(scope),
            Pool(pool),
            statistics_id=statistics_id,
            with_examples=examples,
            verify=verify,
        )
    return report_response(report(facts, format), format, f"{analysis_id}-{scope}-{pool}", if_none_match)
