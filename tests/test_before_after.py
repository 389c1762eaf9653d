"""Trained here, measured again on the same plan, compared: the whole way on real services with a tiny model."""

from pathlib import Path

import pytest

from tests.backend.seeding import jsonl, prompt_rows
from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.slow


def test_a_trained_model_is_compared_with_the_analysis_it_came_from(tmp_path: Path) -> None:
    save_tiny(tmp_path / "models" / "tiny" / "olmoe", "olmoe")
    with Live(tmp_path) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        form = {"name": "pairs", "label_meaning": "harmless_harmful"}
        files = {"file": ("pairs.jsonl", jsonl(prompt_rows(24)))}
        dataset = live.client.post("/datasets", data=form, files=files).raise_for_status().json()["id"]
        asked = {"dataset_id": dataset, "dtype": "float32", "batch_size": 8, "statistics": False}
        before = live.finished(f"/analyses/{live.post('/analyses', model='tiny/olmoe', **asked)['id']}")
        assert before["status"] == "succeeded", before["error"]
        chosen = live.post(f"/analyses/{before['id']}/expert-sets", name="top", method="top_k", k=4)
        wanted = {"analysis_id": before["id"], "expert_set_id": chosen["id"], "learning_rate": 1e-2, "epochs": 3}
        training = live.finished(f"/trainings/{live.post('/trainings', **wanted, max_answer_length=8)['id']}")
        assert training["status"] == "succeeded", training["error"]

        model = f"training:{training['id']}"
        assert next(one for one in live.get("/models")["items"] if one["id"] == model)["supported"]
        sides = {}
        for name, of in (("again", "tiny/olmoe"), ("after", model)):
            made = live.post("/analyses", **asked, model=of, plan_of=before["id"])
            sides[name] = live.finished(f"/analyses/{made['id']}")
            assert sides[name]["status"] == "succeeded", sides[name]["error"]
            assert sides[name]["plan"]["digest"] == before["plan"]["digest"]
        verified = live.post(f"/analyses/{sides['after']['id']}/verify")
        assert verified["ok"], verified["first_break"]

        def compared(name: str) -> dict:
            body = {"analysis_a": before["id"], "analysis_b": sides[name]["id"], "intervals": True, "n_resamples": 399}
            made = live.finished(f"/comparisons/{live.post('/comparisons', **body)['id']}")
            assert made["status"] == "succeeded", made["error"]
            assert made["has_intervals"]
            return made

        same = compared("again")["result"]
        assert same["drift"]["max_abs"] == 0, "in float32 the same model on the same plan routes the same"
        assert same["trained"] is None
        moved = compared("after")
        result = moved["result"]
        assert result["pairing"]["same_plan"]
        assert (result["intervals"]["paired"], result["intervals"]["n_a"]) == (True, 48)
        assert result["drift"]["max_abs"] > 0
        assert (result["trained"]["side"], result["trained"]["training_id"]) == ("b", training["id"])
        assert result["trained"]["experts"] == chosen["experts"]
        assert result["layers"][0]["max_abs"] == 0, "the first router sees what it saw: nothing before it was trained"
        assert len(live.client.get(f"/comparisons/{moved['id']}/table?format=csv").text.splitlines()) == 1 + 3 * 8
