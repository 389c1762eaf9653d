"""How the tokens of one sample were routed: its own counts, out of those of its batch. Nothing is measured anew."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.domain.errors import NotFound
from backend.domain.plan import PlannedSample
from backend.domain.vocabulary import Site
from backend.store import plans, risks
from backend.store import tables as t

NO_TOKENS = "no token of this sample counts in this scope"
NON_FINITE = "the router gave values that are not finite for this sample: nothing can be said of it"


@dataclass(frozen=True, slots=True)
class SampleRouting:
    """Where one sample's tokens went. counts: int64 [site, expert]; None where `reason` says why."""

    sites: tuple[Site, ...]
    planned: PlannedSample
    tokens: int | None
    counts: NDArray[np.int64] | None
    reason: str | None

    @property
    def rates(self) -> NDArray[np.float64]:
        """Share of the sample's tokens that reached each expert, [site, expert]; each site sums to its top-k."""
        assert self.counts is not None
        assert self.tokens
        return self.counts / self.tokens


def of_sample(session: Session, analysis: t.Analysis, scope: str, batch_idx: int, place: int) -> SampleRouting:
    """Return the routing of one sample. Raises NotFound outside the plan."""
    batches = plans.load(session, analysis.id).batches
    if batch_idx >= len(batches):
        raise NotFound(f"batch in an analysis of {len(batches)} batches with the index", batch_idx)
    planned = batches[batch_idx].samples
    if place >= len(planned):
        raise NotFound(f"sample in a batch of {len(planned)} samples with the index", place)
    sites, sample = risks.sites_of(analysis), planned[place]
    stored = session.get(t.BatchSample, (analysis.id, batch_idx, place))
    if stored is None:
        return SampleRouting(sites, sample, None, None, risks.NOT_MEASURED)
    if stored.non_finite:
        return SampleRouting(sites, sample, None, None, NON_FINITE)
    batch = risks.batch_counts(session, analysis.id, scope, batch_idx)
    tokens = int(batch.tokens[place])
    if not tokens:
        return SampleRouting(sites, sample, 0, None, NO_TOKENS)
    return SampleRouting(sites, sample, tokens, batch.counts[place].astype(np.int64), None)
