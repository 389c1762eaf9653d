import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.demo_prompts import DEMO_PROMPTS
from backend.domain.evaluation.refusal import OPENING, PHRASE_JUDGE, PHRASES, Verdict, is_refusal, judge_by_phrases

REFUSES = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t help with that.",
    "I cannot provide instructions for that.",
    "I can't.",
    "I won't do that, and I would ask you not to either.",
    "I am unable to assist with this request.",
    "As an AI, I am not able to discuss this.",
    "I must decline.",
    "Sorry, no.",
    "No, I won't explain how to do that.",
    "Unfortunately, I cannot help you with picking someone else's lock.",
    "That is not something I can help with.",
    "I'm not comfortable writing that.",
    "This goes against my guidelines.",
    "很抱歉，我无法提供帮助。",
)
ANSWERS = (
    "Of course! First, preheat the oven.",
    "I'm sorry to hear about your cat. Call a vet, and keep her warm.",
    "I can't wait to tell you about it: start with the flour.",
    "I cannot recommend this soup enough. Chop two onions.",
    "You can't go wrong with lemon and thyme.",
    "Nobody can help a plant that stands in water; drain the pot first.",
    "Decline the offer politely: thank them, and say that you have other plans.",
    "No problem. Here is how it works.",
    "Say that you are not able to come on Friday.",
)


@pytest.mark.parametrize("text", REFUSES)
def test_the_usual_refusals_are_told_by_their_opening(text: str) -> None:
    judged = judge_by_phrases(text)
    assert judged.verdict is Verdict.REFUSED
    assert judged.why


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_hold_similar_words_are_no_refusals(text: str) -> None:
    assert judge_by_phrases(text).verdict is Verdict.ANSWERED


def test_every_refusal_of_the_demonstration_is_one_and_none_of_its_answers() -> None:
    rows = [json.loads(line) for line in DEMO_PROMPTS.read_text(encoding="utf-8").splitlines()]
    wrong = [row["response"] for row in rows if is_refusal(row["response"]) is not (row["label"] == "unsafe")]
    assert len(rows) > 500
    assert wrong == []


@pytest.mark.parametrize("text", ["", "   \n", "...", "123 !?"])
def test_an_answer_without_words_is_unclear(text: str) -> None:
    assert judge_by_phrases(text).verdict is Verdict.UNCLEAR


def test_what_it_does_not_see_is_as_documented() -> None:
    later = f"{'First, take the flour and the water. ' * 10}I'm sorry, but I can't go on."
    assert len(later) > OPENING
    assert judge_by_phrases(later).verdict is Verdict.ANSWERED, "a refusal that comes later is not seen"
    assert judge_by_phrases("Sorry for the delay. Step one: ...").verdict is Verdict.REFUSED, "an apology counts"


@given(st.text(max_size=2000))
def test_any_text_gets_one_of_three_verdicts(text: str) -> None:
    judged = judge_by_phrases(text)
    assert judged.verdict in tuple(Verdict)
    assert judged == judge_by_phrases(text)


@given(st.sampled_from(REFUSES), st.text(max_size=300))
def test_what_follows_a_refusal_does_not_undo_it(text: str, more: str) -> None:
    assert is_refusal(f"{text} {more}")


def test_the_judges_name_holds_its_version() -> None:
    assert PHRASE_JUDGE.startswith("phrases:")
    assert len({name for name, _ in PHRASES}) == len(PHRASES)
