"""Everything a report is made from, as frozen values. Not covered: where it comes from (backend/store/reports.py)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.prompts import LabelMeaning
from backend.domain.provenance import Link
from backend.domain.report.words import decimals_for, listed, shown
from backend.domain.risk import RiskTable
from backend.domain.statistics.context import Load
from backend.domain.vocabulary import LABELS, Label, Pool, Scope, Site

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file that a prompt set was imported from. label: of every row, where the file holds one kind only."""

    name: str
    sha256: str
    n_rows: int
    label: Label | None


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """The prompt set. sources: {source: (safe, unsafe) rows}; n_grouped: rows that have a group; n_groups: groups."""

    id: str
    name: str
    sha256: str
    meaning: LabelMeaning
    n_rows: int
    n_safe: int
    n_unsafe: int
    n_duplicates: int
    files: tuple[PromptFile, ...]
    sources: Mapping[str, tuple[int, int]]
    n_grouped: int
    n_groups: int

    @property
    def one_label_per_source(self) -> bool:
        """Whether knowing the source of a prompt is knowing its label."""
        known = sum(map(sum, self.sources.values())) == self.n_rows
        return known and len(self.sources) > 1 and all(0 in labels for labels in self.sources.values())

    @property
    def aliased(self) -> str:
        """Say what holds one label only where that is all sources or all files; else ""."""
        if self.one_label_per_source:
            names = listed([shown(name) for name in [*self.sources][:6]])
            return f"Every source in the set ({names}{', …' if len(self.sources) > 6 else ''}) holds one label only"
        return f"Each of the {len(self.files)} files of the set holds one label only" if self.one_label_per_file else ""

    @property
    def one_label_per_file(self) -> bool:
        """Whether knowing the file of a prompt is knowing its label."""
        return len(self.files) > 1 and all(file.label is not None for file in self.files)


@dataclass(frozen=True, slots=True)
class MeasuredFacts:
    """What was fed and counted. Prompts of non-finite batches are in n_prompts, in no figure.

    lengths: median prompt length in tokens, by label; longest: of all prompts.
    """

    n_batches: int
    n_non_finite: int
    n_prompts: int
    n_truncated: int
    lengths: Mapping[Label, float]
    longest: int


@dataclass(frozen=True, slots=True)
class AnalysisFacts:
    """The analysis as it was asked for and as it ran."""

    id: str
    name: str
    status: str
    created_at: str
    finished_at: str | None
    engine: str
    params: Json
    plan_digest: str
    plan: Json
    environment: Json
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model. architecture, n_parameters: None where it is no longer in the list of models."""

    id: str
    architecture: str | None
    n_parameters: int | None
    digests: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, eq=False)
class StatisticsFacts:
    """Finished statistics. summary: as in the REST answer; figures: [site, expert] by name, NaN where there is none."""

    id: str
    params: Json
    summary: Json
    figures: Mapping[str, NDArray[np.float64]]
    input_digest: str | None
    sha256: str | None
    finished_at: str | None
    environment: Json

    @property
    def testable(self) -> bool:
        """Whether anything could be tested."""
        return bool(self.summary["design"]["scheme"] != "not_testable")

    @property
    def significant(self) -> NDArray[np.bool_]:
        """[site, expert]: p_max_t <= alpha."""
        called: NDArray[np.bool_] = self.figures["p_max_t"] <= self.summary["alpha"]
        return called


@dataclass(frozen=True, slots=True)
class DrivenExpert:
    """The tokens that raise and lower an expert's risk_diff most: (token, contribution), the largest first.

    row: position of its site. concentration: share of the five largest |contributions|; None where all are zero.
    """

    row: int
    expert: int
    concentration: float | None
    raising: tuple[tuple[str, float], ...]
    lowering: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ContextFacts:
    """A finished context run. recounted: as in the REST answer."""

    id: str
    finished_at: str | None
    recounted: Json
    n_experts: int
    experts: tuple[DrivenExpert, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt shown as an example."""

    label: Label
    row_id: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """All of it. values, floors: [batch] largest |risk_diff| (pool mean) and noise floor, NaN where there is none.

    table: None where `reason` says why. statistics: None where `waiting` says how far they are ("" = never asked for).
    context: None without a finished context run. links: None where the chain was not checked. load: None where nothing
    is counted.
    """

    version: str
    scope: Scope
    pool: Pool
    analysis: AnalysisFacts
    prompts: PromptFacts
    measured: MeasuredFacts
    model: ModelFacts
    table: RiskTable | None
    reason: str | None
    load: Load | None
    values: NDArray[np.float64]
    floors: NDArray[np.float64]
    statistics: StatisticsFacts | None
    waiting: str
    context: ContextFacts | None
    links: tuple[Link, ...] | None
    examples: tuple[Example, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The MoE sites in model order."""
        return self.analysis.sites

    @property
    def exists(self) -> NDArray[np.bool_]:
        """[site, expert]: whether the site has this expert."""
        sizes = np.array([site.n_experts for site in self.sites])
        present: NDArray[np.bool_] = np.arange(sizes.max())[None] < sizes[:, None]
        return present

    @property
    def n_experts(self) -> int:
        """Routed experts over all sites."""
        return sum(site.n_experts for site in self.sites)

    @property
    def risk_diff(self) -> NDArray[np.float64]:
        """[site, expert], NaN where there is no such expert. Only where there is a table."""
        assert self.table is not None
        return np.where(self.exists, self.table.risk_diff, np.nan)

    @property
    def largest(self) -> float:
        """The largest |risk_diff|; 0 where there is none."""
        return 0.0 if self.table is None else float(np.nanmax(np.abs(self.risk_diff)))

    @property
    def decimals(self) -> int:
        """How many decimals differences are shown with."""
        return decimals_for(self.largest)

    @property
    def significant(self) -> NDArray[np.bool_]:
        """[site, expert]: significant over the whole family; none without statistics."""
        return np.zeros_like(self.exists) if self.statistics is None else self.statistics.significant

    @property
    def as_of(self) -> str:
        """When the newest figure here came about: the only time a report names, and not the clock's."""
        ends = [run.finished_at for run in (self.analysis, self.statistics, self.context) if run is not None]
        return max((end for end in ends if end), default=self.analysis.created_at)

    @property
    def length_ratio(self) -> float:
        """The longer label's median prompt length over the shorter one's; NaN where one is not known."""
        lengths = [self.measured.lengths.get(label, math.nan) for label in LABELS]
        return max(lengths) / min(lengths) if all(length > 0 for length in lengths) else math.nan

    def place(self, row: int, expert: int) -> str:
        """Return 'layer 3, expert 7', with the module where a layer has two sites."""
        site = self.sites[row]
        twice = sum(other.layer == site.layer for other in self.sites) > 1
        return f"layer {site.layer}{f' ({site.site})' if twice else ''}, expert {expert}"

    def site_names(self) -> tuple[str, ...]:
        """Return a short name per site: the layer's number, with the module's last part where a layer has two."""
        layers = [site.layer for site in self.sites]
        return tuple(
            str(s.layer) if layers.count(s.layer) == 1 else f"{s.layer} {s.site.rsplit('.', 1)[-1]}" for s in self.sites
        )
