"""An analysis without a model: a plan of any length, and batches measured by a fake engine.

Not a part of the benchmark but what its parts stand on. The routing is random in the way a router's is: experts differ
in popularity, prompts in what they prefer, every token goes to top_k different experts of every site.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from backend.domain.batches import PlanRow, plan_batches
from backend.domain.canonical import sha256_hex
from backend.domain.measured import MeasuredBatch, MeasuredSample, ScopeRouting
from backend.domain.plan import BatchPlan, PlannedBatch, PlanSettings
from backend.domain.vocabulary import LABELS, Label, Scope, Site
from backend.store import plans
from backend.store import tables as t
from backend.store.engine import make_engine, writing
from backend.store.migrate import upgrade
from backend.store.writes import record_batch
from worker.capture.tap import WEIGHT_SCALE

BATCH, TOP_K = 16, 8


@dataclass(frozen=True)
class Shape:
    """The experts of a model."""

    sites: int
    experts: int

    def __str__(self) -> str:
        return f"{self.sites} x {self.experts}"

    @property
    def raw_bytes(self) -> int:
        """Size of one batch's counts as int32."""
        return BATCH * self.sites * self.experts * 4


class FakeEngine:
    """Gives a routing to planned batches. A pool of routings is drawn once, and batches take from it in turn.

    real_weights: routing weights beside the counts, as transformers gives them and vLLM does not.
    """

    def __init__(self, shape: Shape, *, pool: int = 24, real_weights: bool = True, longest: int = 60) -> None:
        self.shape = shape
        rng = np.random.default_rng(0)
        popularity = rng.normal(size=(shape.sites, shape.experts)) * 0.7
        self.routings = [self._routing(rng, popularity, longest, real_weights) for _ in range(pool)]

    def _routing(
        self, rng: np.random.Generator, popularity: NDArray[np.float64], longest: int, real_weights: bool
    ) -> ScopeRouting:
        tokens = rng.integers(6, longest + 1, BATCH)
        counts = np.zeros((BATCH, *popularity.shape), dtype=np.int32)
        weights = np.zeros((len(LABELS), *popularity.shape))
        for sample, n in enumerate(tokens.tolist()):
            own = popularity + rng.normal(size=popularity.shape) * 0.5
            scores = own + rng.normal(size=(n, *popularity.shape))
            chosen = np.zeros(scores.shape, dtype=bool)
            np.put_along_axis(chosen, np.argpartition(-scores, TOP_K, axis=-1)[..., :TOP_K], True, axis=-1)
            counts[sample] = chosen.sum(axis=0)
            odds = np.exp(scores)
            own_weights = np.rint(odds / odds.sum(axis=-1, keepdims=True) * WEIGHT_SCALE) * chosen
            weights[sample * 2 // BATCH] += own_weights.sum(axis=0) / WEIGHT_SCALE
        return ScopeRouting(tokens.astype(np.int64), counts, weights.astype(np.float32) if real_weights else None)

    def measure(self, batch: PlannedBatch) -> MeasuredBatch:
        """Return a batch as an engine would."""
        routing = self.routings[batch.batch_idx % len(self.routings)]
        rng = np.random.default_rng(batch.batch_idx)
        samples = tuple(
            MeasuredSample(
                in_batch_idx=s.in_batch_idx,
                row_idx=s.row_idx,
                row_id=s.row_id,
                label=s.label,
                prompt_digest=sha256_hex(f"prompt {s.row_idx}".encode()),
                token_ids=rng.integers(0, 50_304, int(n), dtype=np.int32),
                tokens=int(n),
                truncated=False,
                non_finite=False,
            )
            for s, n in zip(batch.samples, routing.tokens, strict=True)
        )
        return MeasuredBatch(batch.batch_idx, batch.batch_id, samples, {Scope.PROMPT: routing})


@lru_cache(maxsize=4)
def make_plan(n_batches: int) -> BatchPlan:
    """Return a plan of so many batches of 8 safe and 8 unsafe prompts."""
    rows = [
        PlanRow(i, sha256_hex(f"row {i}".encode()), Label.UNSAFE if i % 2 else Label.SAFE, None, None, None)
        for i in range(n_batches * BATCH)
    ]
    return plan_batches(rows, sha256_hex(b"fake"), PlanSettings(batch_size=BATCH))


class FakeAnalysis:
    """A database with one running analysis; `record` measures and stores its batches one by one."""

    def __init__(self, url: str, shape: Shape, n_batches: int, engine: FakeEngine) -> None:
        upgrade(url)
        self.engine: Engine = make_engine(url)
        self.fake, self.plan = engine, make_plan(n_batches)
        sites = [Site(i, f"model.layers.{i}.mlp", shape.experts, TOP_K).to_dict() for i in range(shape.sites)]
        self.id = self._create(sites)
        self.next = 0

    def _create(self, sites: list[dict[str, Any]]) -> str:
        digests = {"config": "c" * 64, "weights": "w" * 64, "tokenizer": "t" * 64, "template": None}
        with writing(self.engine) as session:
            dataset = t.Dataset(
                id=t.new_id("ds"),
                name="fake",
                sha256=self.plan.prompt_set_sha256,
                label_meaning={"kind": "harmless_harmful", "safe": "harmless", "unsafe": "harmful"},
                n_rows=len(self.plan.batches) * BATCH,
                n_safe=len(self.plan.batches) * BATCH // 2,
                n_unsafe=len(self.plan.batches) * BATCH // 2,
                n_duplicates=0,
                files=[],
            )
            session.add(dataset)
            session.flush()
            params = {"engine": "transformers", "scopes": ["prompt"], "batch_size": BATCH}
            analysis = t.Analysis(
                id=t.new_id("an"),
                name="fake",
                status="running",
                total=len(self.plan.batches),
                dataset_id=dataset.id,
                model_id="fake",
                engine="transformers",
                params=params,
                plan_digest=self.plan.digest,
                plan_summary=self.plan.summary(),
                sites=sites,
                model_digests=digests,
            )
            session.add(analysis)
            session.flush()
            session.add(plans.Frozen.of(self.plan).row(analysis.id))
            return analysis.id

    def record(self, n: int) -> Iterator[MeasuredBatch]:
        """Store the next n batches, each in a transaction of its own, as a worker does; yields each after it landed."""
        for batch in self.plan.batches[self.next : self.next + n]:
            measured = self.fake.measure(batch)
            with writing(self.engine) as session:
                analysis = session.scalars(select(t.Analysis).where(t.Analysis.id == self.id)).one()
                assert record_batch(session, analysis, batch, measured)
            self.next += 1
            yield measured

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()


def url_of(path: Path) -> str:
    """Return the SQLAlchemy URL of a database file."""
    return f"sqlite:///{path}"
