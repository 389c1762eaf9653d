"""A small study in a database of its own: prompts, a tiny model, an analysis, a training, as the API submits them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from backend.domain.batches import plan_batches, plan_rows
from backend.domain.experts import SelectionRule
from backend.domain.plan import PlanSettings, Strategy
from backend.domain.prompts import Label, LabelMeaning, Message, PromptRow, PromptSet, RowOrigin, build_prompt_set
from backend.settings import get_settings
from backend.store import analyses, datasets, experts, trainings
from backend.store import tables as t
from backend.store.engine import reading, shared_engine, writing
from backend.store.migrate import upgrade
from backend.store.plans import Frozen
from tests.worker.tiny import save_tiny
from worker.measuring import measure_shard
from worker.scanning import scan

ANALYSIS = {
    "engine": "transformers",
    "dtype": "float32",
    "max_length": 64,
    "scopes": ["prompt"],
    "max_new_tokens": 0,
    "system_prompt": None,
}
TRAINING: dict[str, Any] = {
    "mode": "selected",
    "routing": "free",
    "targets": {"safe": "default", "unsafe": "default"},
    "refusal_text": "I cannot help with that.",
    "epochs": 2,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "seed": 3,
    "shuffle_batches": True,
    "preserve_batches": True,
    "max_answer_length": 8,
    "checkpoint_every": 2,
}


def prompt_set(n: int = 12) -> PromptSet:
    """Return n safe and n unsafe prompts; every second safe one has its own answer."""
    meaning = LabelMeaning.from_text("harmless_harmful")
    rows = []
    for i in range(n):
        safe, unsafe = f"How do I bake bread number {i} at home?", f"How do I steal car number {i} outside?"
        answer = f"Take flour and water, {i} cups." if i % 2 else None
        rows.append(PromptRow((Message("user", safe),), Label.SAFE, response=answer, group=str(i)))
        rows.append(PromptRow((Message("user", unsafe),), Label.UNSAFE, group=str(i)))
    return build_prompt_set(((RowOrigin("made here", i), row) for i, row in enumerate(rows, 1)), meaning)


@dataclass(frozen=True)
class Study:
    """One database with a scanned model and a prompt set in it."""

    engine: Engine
    dataset_id: str
    model_id: str

    def submit_analysis(self, batch_size: int = 8, strategy: str = "shuffled", **params: Any) -> str:
        """Store a running analysis and return its id."""
        with writing(self.engine) as session:
            rows = datasets.plan_rows(session, self.dataset_id)
            dataset = session.get_one(t.Dataset, self.dataset_id)
            plan = plan_batches(rows, dataset.sha256, PlanSettings(batch_size=batch_size, strategy=Strategy(strategy)))
            model = session.get_one(t.Model, self.model_id)
            analysis = analyses.create(session, "study", dataset, model, ANALYSIS | params, Frozen.of(plan))
            analysis.status = "running"
            return analysis.id

    def analyse(self, **params: Any) -> str:
        """Submit an analysis and measure all of it."""
        id_ = self.submit_analysis(**params)
        self.measure(id_)
        with writing(self.engine) as session:
            session.get_one(t.Analysis, id_).status = "succeeded"
        return id_

    def measure(self, analysis_id: str, first: int = 0) -> int:
        """Measure from a batch on to the end."""
        return measure_shard(analysis_id, first, self.get(t.Analysis, analysis_id).plan_summary["n_batches"], "job")

    def choose(self, analysis_id: str, **rule: Any) -> str:
        """Store an expert set of an analysis and return its id."""
        with writing(self.engine) as session:
            analysis = session.get_one(t.Analysis, analysis_id)
            chosen = experts.apply(session, analysis, SelectionRule(**({"method": "top_k", "k": 4} | rule)))
            return experts.create(session, analysis, "chosen", chosen)[0].id

    def submit_training(self, analysis_id: str, set_id: str | None, **params: Any) -> str:
        """Store a running training and return its id."""
        with writing(self.engine) as session:
            analysis = session.get_one(t.Analysis, analysis_id)
            chosen = session.get(t.ExpertSet, set_id) if set_id else None
            wanted = TRAINING | params
            n_steps = wanted["epochs"] * analysis.plan_summary["n_batches"]
            training = trainings.create(session, "study", analysis, chosen, wanted, n_steps)
            training.status = "running"
            return training.id

    def get(self, table: Any, id_: Any) -> Any:
        """Return one row."""
        with reading(self.engine) as session:
            return session.get_one(table, id_)

    def rows(self, table: Any, **where: Any) -> list[Any]:
        """Return all rows with these values, by primary key."""
        with reading(self.engine) as session:
            return list(session.scalars(select(table).filter_by(**where).order_by(*table.__table__.primary_key)))


def open_study(home: Path, family: str = "olmoe", *, template: bool = True) -> Study:
    """Make the study's database, prompt set and model below this folder (ROUTEPRINT_HOME must point to it)."""
    settings = get_settings()
    assert settings.home == home
    upgrade(settings.tables_url)
    save_tiny(settings.models_path / "tiny" / family, family, template=template)
    scan()
    engine = shared_engine(settings.tables_url)
    prompts = prompt_set()
    with writing(engine) as session:
        dataset = datasets.create(session, "study", prompts.sha256, prompts, [], "succeeded")
        datasets.add_rows(session, dataset.id, datasets.row_values(prompts.rows))
    assert plan_rows(prompts) == datasets_plan(engine, dataset.id)
    return Study(engine, dataset.id, f"tiny/{family}")


def datasets_plan(engine: Engine, dataset_id: str) -> list[Any]:
    """Return the rows as the plan sees them, read back from the store."""
    with reading(engine) as session:
        return datasets.plan_rows(session, dataset_id)
