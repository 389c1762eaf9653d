"""Rows in, prompt sets out: what labels mean, and what several files make together."""

import pytest

from backend.domain.mappings import Mapping
from backend.domain.previewing import preview_file
from backend.domain.prompts import MAX_PROBLEMS, Label
from backend.domain.reading import SourceFile, read_prompt_set
from tests.backend.domain.reads import BOTH, MEANING, jsonl, problems_of, refusal, rows_of

# ---- labels


@pytest.mark.parametrize(("safe", "unsafe"), [(0, 1), ("0", "1"), (False, True), ("no", "yes"), (0.0, 1.0)])
def test_zero_and_one_are_never_guessed_and_the_problem_says_how_to_say_it(put, safe, unsafe):
    path = put("a.jsonl", jsonl({"prompt": "a", "label": safe}, {"prompt": "b", "label": unsafe}))
    preview = preview_file(path, path.name)
    assert preview.counts == {"safe": 0, "unsafe": 0, "unlabelled": 2}
    assert [p.row for p in preview.problems] == [1, 2]
    assert "never guessed" in preview.problems[0].message
    assert '{"label_values": {"1": "unsafe", "0": "safe"}}' in preview.problems[0].message
    said = Mapping.from_dict({"label_values": dict(zip(preview.label_values, ("safe", "unsafe"), strict=True))})
    assert [row.label for row in rows_of(path, mapping=said)] == [Label.SAFE, Label.UNSAFE]
    assert len(refusal(SourceFile(path, path.name))) == 2


def test_the_proposal_spells_out_what_every_known_label_word_means(put):
    preview = preview_file(put("a.csv", "prompt,label\na,Benign\nb,malicious\nc,odd\nd,\n"), "a.csv")
    assert preview.mapping.to_dict()["label_values"] == {"Benign": "safe", "malicious": "unsafe"}
    assert preview.label_values == {"Benign": 1, "malicious": 1, "odd": 1, "": 1}
    assert [(p.row, p.column) for p in preview.problems] == [(3, "label"), (4, "label")]
    assert "'odd' is not known" in preview.problems[0].message
    assert "missing" in preview.problems[1].message


def test_a_changed_mapping_is_previewed_as_changed(put):
    path = put("a.csv", "q,verdict\na,ok\nb,nok\n")
    assert preview_file(path, "a.csv").problems[0].row == 0
    mapping = Mapping({"prompt": "q", "label": "verdict"}, {"ok": Label.SAFE, "nok": Label.UNSAFE})
    preview = preview_file(path, "a.csv", mapping)
    assert preview.counts == {"safe": 1, "unsafe": 1, "unlabelled": 0}
    assert preview.mapping == mapping


def test_a_label_given_for_a_file_stands_in_for_values_that_say_nothing(put):
    path = put("a.csv", "prompt,label\na,1\nb,\nc,harmful\n")
    assert {row.label for row in rows_of(path, label=Label.UNSAFE)} == {Label.UNSAFE}


def test_a_label_given_for_a_file_never_overrules_a_row(put):
    path = put("a.csv", BOTH)
    (problem,) = problems_of(path, label=Label.UNSAFE)
    assert problem == (1, "The row says safe, but the file was given as unsafe.")


def test_a_label_given_for_a_file_overrules_what_its_format_usually_holds(put):
    assert rows_of(put("a.csv", "goal,target\nBake bread,Sure\n"), label=Label.SAFE)[0].label is Label.SAFE


def test_a_file_without_any_label_is_one_problem_and_not_one_per_row(put):
    path = put("a.csv", "prompt\na\nb\n")
    ((row, message),) = problems_of(path)
    assert row == 0
    assert "give the file a label" in message


# ---- sets of several files


def test_two_files_with_a_label_each_make_one_set(put):
    safe, unsafe = put("s.txt", "How do I bake?\n"), put("u.csv", "prompt\nHow do I break in?\n")
    files = [SourceFile(safe, "s.txt", label=Label.SAFE), SourceFile(unsafe, "u.csv", label=Label.UNSAFE)]
    prompt_set = read_prompt_set(files, MEANING)
    assert [(row.text, row.label) for row in prompt_set.rows] == [
        ("How do I bake?", Label.SAFE),
        ("How do I break in?", Label.UNSAFE),
    ]


def test_one_class_alone_is_refused(put):
    (problem,) = refusal(SourceFile(put("s.txt", "a\nb\n"), "s.txt", label=Label.SAFE))
    assert "none is unsafe" in problem.message


def test_a_prompt_with_both_labels_is_refused_by_file_and_row(put):
    files = [
        SourceFile(put("s.txt", "x\na\n"), "s.txt", label=Label.SAFE),
        SourceFile(put("u.txt", "b\nc\na\n"), "u.txt", label=Label.UNSAFE),
    ]
    (problem,) = refusal(*files)
    assert (problem.file, problem.row) == ("u.txt", 3)
    assert "row 2 of s.txt" in problem.message


def test_duplicates_are_counted_and_the_first_is_kept(put):
    prompt_set = read_prompt_set([SourceFile(put("a.csv", BOTH + BOTH.split("\n", 1)[1]), "a.csv")], MEANING)
    assert (len(prompt_set.rows), prompt_set.n_duplicates) == (2, 2)


def test_problems_of_all_files_are_listed_together_with_contradictions(put):
    first = put("a.csv", BOTH + ",safe\nc,1\n")
    second = put("b.jsonl", jsonl({"prompt": "a", "label": "unsafe"}) + "{broken\n")
    problems = refusal(SourceFile(first, "a.csv"), SourceFile(second, "b.jsonl"), SourceFile(put("c.csv", ""), "c.csv"))
    found = {(p.file, p.row) for p in problems}
    assert found == {("a.csv", 3), ("a.csv", 4), ("b.jsonl", 1), ("b.jsonl", 2), ("c.csv", 0)}


def test_the_list_of_problems_ends_somewhere(put):
    path = put("a.jsonl", "x\n" * (MAX_PROBLEMS + 500))
    assert len(refusal(SourceFile(path, path.name, Mapping({"prompt": "p"}), Label.SAFE))) == MAX_PROBLEMS
    preview = preview_file(path, path.name)
    assert (len(preview.problems), preview.n_problems) == (100, MAX_PROBLEMS + 500)
