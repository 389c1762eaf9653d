import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.errors import Conflict
from worker.checkpoints import (
    MANIFEST,
    checkpoint_dir,
    locked,
    newest_checkpoint,
    publish,
    read_manifest,
    staging,
    tidy,
)


def checkpoint(out_dir, step, run="r"):
    folder = staging(out_dir, f"checkpoint-{step}")
    (folder / "weights").write_bytes(b"w" * 100)
    (folder / "more").mkdir()
    (folder / "more" / "state").write_text(f"step {step}")
    publish(folder, checkpoint_dir(out_dir, step), {"run": run, "step": step})
    return checkpoint_dir(out_dir, step)


def test_a_published_folder_matches_its_manifest(tmp_path):
    folder = checkpoint(tmp_path, 3)
    manifest = read_manifest(folder)
    assert manifest.facts == {"version": 3, "run": "r", "step": 3}
    assert set(manifest.files) == {"weights", "more/state"}
    assert not list(tmp_path.glob(".staging*"))


def test_a_checkpoint_of_a_later_version_is_passed_over_and_said(tmp_path):
    good, later = checkpoint(tmp_path, 3), checkpoint(tmp_path, 6)
    facts = read_manifest(later).facts
    moved = later.rename(tmp_path / "moved")
    (moved / MANIFEST).unlink()
    publish(moved, later, facts | {"version": 4})
    lines = []
    assert newest_checkpoint(tmp_path, "r", lines.append) == good
    assert lines == [
        "checkpoint-6 was written by a later version, whose state is not known here; its steps are trained again"
    ]


def damage_bytes(folder):
    (folder / "weights").write_bytes(b"w" * 99 + b"x")


def damage_length(folder):
    (folder / "weights").write_bytes(b"w" * 50)


def damage_missing(folder):
    (folder / "more" / "state").unlink()


def damage_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-20])


def damage_no_manifest(folder):
    (folder / MANIFEST).unlink()


def damage_not_a_manifest(folder):
    (folder / MANIFEST).write_text(json.dumps([1]))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_bytes, "weights is damaged"),
        (damage_length, "weights is damaged"),
        (damage_missing, "more/state is missing"),
        (damage_manifest, "manifest cannot be read"),
        (damage_no_manifest, "no manifest"),
        (damage_not_a_manifest, "manifest cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, damage, said):
    good, bad, lines = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10), []
    damage(bad)
    assert newest_checkpoint(tmp_path, "r", lines.append) == good
    assert len(lines) == 1
    assert "checkpoint-10 cannot be used" in lines[0]
    assert said in lines[0]


@settings(max_examples=40)  # everything is flushed to disk
@given(cut=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 7), whole=st.booleans(), which=st.integers(0, 2))
def test_no_file_of_a_checkpoint_can_lose_an_end_or_a_bit_unnoticed(cut, flip, whole, which):
    with TemporaryDirectory() as home:
        good, bad, lines = checkpoint(Path(home), 9), checkpoint(Path(home), 10), []
        file = [bad / "weights", bad / "more" / "state", bad / MANIFEST][which]
        content = bytearray(file.read_bytes())
        at = int(cut * len(content))
        content[at] ^= 1 << flip
        file.write_bytes(content if whole else content[:at])
        assert newest_checkpoint(Path(home), "r", lines.append) == good
        assert len(lines) == 1


def test_a_run_without_a_whole_checkpoint_starts_afresh(tmp_path):
    assert newest_checkpoint(tmp_path, "r", print) is None
    damage_bytes(checkpoint(tmp_path, 1))
    assert newest_checkpoint(tmp_path, "r", lambda _: None) is None


def test_another_run_s_checkpoint_is_a_conflict(tmp_path):
    checkpoint(tmp_path, 1, run="other")
    with pytest.raises(Conflict, match="another run"):
        newest_checkpoint(tmp_path, "r", print)


def test_tidying_keeps_the_newest_by_number_and_removes_what_a_crash_left(tmp_path):
    for step in (2, 9, 10, 100):
        checkpoint(tmp_path, step)
    (staging(tmp_path, "checkpoint-101") / "half").write_text("x")
    tidy(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(Conflict), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_none_is_kept_where_none_is_wanted(tmp_path):
    for step in (2, 10):
        checkpoint_dir(tmp_path, step).mkdir()
    (tmp_path / "model").mkdir()
    tidy(tmp_path, keep=0)
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]
