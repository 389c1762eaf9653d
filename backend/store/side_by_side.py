"""Two or more analyses and published tables read at once, on one scale. Nothing of it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.domain import side_by_side as figures
from backend.domain.errors import InvalidInput
from backend.store import comparisons


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Sides beside each other. risk_diff: float32 [side, site, expert]; NaN: none there."""

    scope: str
    pool: str
    result: dict[str, Any]
    risk_diff: NDArray[np.float32]


def read(session: Session, sides: Sequence[str], scope: str | None, pool: str | None) -> Read:
    """Read every side and compare each two. scope, pool: None for what all have.

    Raises NotFound; Conflict where a side is not measured; InvalidInput where the sides do not go together.
    """
    if len(set(sides)) < len(sides):
        raise InvalidInput("The same side is named twice.", figures.PLACE)
    pool = comparisons.common_pool(sides, pool)
    scope = scope or comparisons.common_scope(session, sides)
    loaded = [comparisons.load(session, id_, scope, pool) for id_ in sides]
    result = figures.side_by_side([one.side for one in loaded])
    own = next((one for one in loaded if one.analysis is not None), loaded[0])
    result |= {"sides": [one.about for one in loaded], "sites": [site.to_dict() for site in own.sites]}
    return Read(scope, pool, result, np.stack([one.side.risk_diff for one in loaded]).astype(np.float32))
