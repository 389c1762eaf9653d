"""Reading with a memory: what cannot change any more is fetched once. Arrays live here, never in the session."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from dashboard.client import Api, Json

Matrix = NDArray[np.float32]
TESTS = ("ci_low", "ci_high", "p", "p_max_t", "q", "frequency", "load")
"""Figures of the statistics that the pages show."""


@st.cache_data(max_entries=256, show_spinner=False, ttl=3600)
def _remembered(base_url: str, token: str, path: str, params: tuple[tuple[str, object], ...], version: str) -> Any:
    return Api(base_url, token).get(path, **dict(params))


def remember(api: Api, path: str, version: str, **params: object) -> Any:
    """GET once per `version` of the resource (for instance how many batches are measured)."""
    return _remembered(api.base_url, api.token, path, tuple(sorted(params.items())), version)


@st.cache_data(max_entries=64, show_spinner=False, ttl=3600)
def _all_items(
    base_url: str, token: str, path: str, params: tuple[tuple[str, object], ...], version: str
) -> list[Json]:
    return list(Api(base_url, token).items(path, most=20_000, **dict(params)))


def all_items(api: Api, path: str, version: str, **params: object) -> list[Json]:
    """GET a whole list once per `version`."""
    return _all_items(api.base_url, api.token, path, tuple(sorted(params.items())), version)


@st.cache_data(max_entries=64, show_spinner=False, ttl=3600)
def _risk(
    base_url: str, token: str, analysis_id: str, scope: str, pool: str, batch_idx: int | None, version: str
) -> Json:
    path = f"/analyses/{analysis_id}/risk-diff"
    answer = Api(base_url, token).get(path, scope=scope, pool=pool, batch_idx=batch_idx)
    for name in ("risk_diff", "rate_safe", "rate_unsafe", "noise_floor_cells"):
        answer[name] = matrix(answer.get(name))
    return dict(answer)


def risk(api: Api, analysis: Json, scope: str, pool: str, batch_idx: int | None = None) -> Json:
    """Return risk-diff of one analysis or batch with its matrices as float32 [site, expert] (or None)."""
    return _risk(api.base_url, api.token, analysis["id"], scope, pool, batch_idx, version(analysis))


@st.cache_data(max_entries=128, show_spinner=False, ttl=3600)
def _routing(base_url: str, token: str, path: str, scope: str, version: str) -> Json:
    answer = Api(base_url, token).get(path, scope=scope)
    for name in ("counts", "rates"):
        answer[name] = matrix(answer[name])
    return dict(answer)


def routing(api: Api, path: str, scope: str, version: str) -> Json:
    """Return where one sample's tokens went, its matrices as float32 [site, expert] (or None)."""
    return _routing(api.base_url, api.token, path, scope, version)


@st.cache_data(max_entries=32, show_spinner=False, ttl=3600)
def _compared(base_url: str, token: str, a: str, b: str, scope: str | None, pool: str | None) -> Json:
    body = {"analysis_a": a, "analysis_b": b} | ({"scope": scope} if scope else {}) | ({"pool": pool} if pool else {})
    answer = Api(base_url, token).post("/comparisons", body, dry_run=True)
    for name in ("risk_diff_a", "risk_diff_b", "difference"):
        answer[name] = matrix(answer[name])
    return dict(answer)


def compared(api: Api, a: str, b: str, scope: str | None, pool: str | None) -> Json:
    """Return the comparison of two sides, which never change once they are finished, matrices as float32."""
    return _compared(api.base_url, api.token, a, b, scope, pool)


@st.cache_data(max_entries=16, show_spinner=False, ttl=3600)
def _side_by_side(base_url: str, token: str, sides: tuple[str, ...], scope: str | None, pool: str | None) -> Json:
    answer = Api(base_url, token).get("/side-by-side", side=sides, scope=scope, pool=pool)
    answer["risk_diff"] = [matrix(own) for own in answer["risk_diff"]]
    return dict(answer)


def side_by_side(api: Api, sides: Sequence[str], scope: str | None, pool: str | None) -> Json:
    """Return several finished sides, which never change, with risk_diff as float32 [site, expert] of each."""
    return _side_by_side(api.base_url, api.token, tuple(sides), scope, pool)


@st.cache_data(max_entries=32, show_spinner=False, ttl=3600)
def _tests(base_url: str, token: str, statistics_id: str) -> dict[str, Matrix | None]:
    answer = Api(base_url, token).get(f"/statistics/{statistics_id}/table")
    return {name: matrix(answer[name]) for name in TESTS}


def tests(api: Api, statistics_id: str) -> dict[str, Matrix | None]:
    """Return the figures of finished statistics, which never change: float32 [site, expert] by name."""
    return _tests(api.base_url, api.token, statistics_id)


def matrix(rows: Any) -> Matrix | None:
    """Nested JSON lists -> float32 [site, expert]; null becomes NaN; None and an empty list stay None."""
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype="<f4") if rows else None


def version(run: Json) -> str:
    """What a run's derived data depend on: how far it is."""
    return f"{run['status']}-{run.get('n_measured', run.get('n_recorded'))}"
