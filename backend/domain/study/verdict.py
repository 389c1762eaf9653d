"""What a study's figures mean, in sentences that are made from the figures alone. No figure, no claim.

Tones: `shown` (a difference, with its direction), `not_shown` (none could be shown, which is not the same as none),
`untested`. Not covered: the figures (findings.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.domain.report.words import listed, number, p_value, percent, signed

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence or two. key: reproducibility, scatter, level, causal or held_out."""

    key: str
    tone: str
    text: str


def verdicts(found: Found, causal: Sequence[Found], overlap: Found) -> list[dict[str, str]]:
    """Return the answers, the primary one first. causal: measures of the causal check; overlap: of its prompts."""
    alpha, doubt = found["alpha"], _doubt(found["varies"])
    of_arms = (
        reproducibility(found["maps"], len(found["seeds"]), alpha),
        scatter(found["measures"], alpha),
        level(found["measures"], alpha),
    )
    said = [
        *(replace(one, text=one.text + doubt) if one.tone == "shown" else one for one in of_arms),
        *([effect(causal, alpha)] if causal else []),
        held_out(overlap),
    ]
    return [asdict(one) for one in said]


def _doubt(varies: Found) -> str:
    """Say what else than keeping batches a difference between the arms may come from, by the stored record."""
    said = ""
    if not varies["same_targets"]:
        said += " But the runs did not all learn the same answers, and a difference may come from that."
    lacking = varies["steps"]["preserved"] - varies["verified"]["preserved"]
    if lacking:
        said += f" But of the steps of the arm that keeps batches, {lacking} were not verified."
    return said


def reproducibility(maps: Found, n_seeds: int, alpha: float) -> Verdict:
    """Answer the primary question: do the maps of the trained models lie closer together where batches were kept?"""
    sizes = [maps["arms"][arm]["mean_distance"] for arm in ("preserved", "shuffled")]
    test = maps["test"]
    if test["p"] is None or None in sizes:
        return Verdict("reproducibility", "untested", f"Reproducibility could not be tested: {test['why']}.")
    decimals = max(4, 2 - math.floor(math.log10(max(*sizes, 1e-9))))
    first, second = (number(size, decimals) for size in sizes)
    figures = (
        f"Trained with {n_seeds} seeds each, the models' risk_diff maps lie {first} apart on average where batches "
        f"were kept and {second} where samples were reshuffled (root mean square over {maps['n_experts']} experts; "
        f"p = {p_value(test['p'])}, smallest attainable {p_value(test['smallest_p'])})."
    )
    if test["p"] > alpha:
        more = (
            " No difference in reproducibility could be shown."
            if test["smallest_p"] <= alpha
            else f" With so few seeds no difference could have reached p ≤ {alpha:g}: this study cannot tell."
        )
        return Verdict("reproducibility", "not_shown", figures + more)
    closer = "more" if sizes[0] < sizes[1] else "less"
    return Verdict(
        "reproducibility", "shown", f"{figures} Keeping batches made the results {closer} reproducible here."
    )


def scatter(measures: Sequence[Found], alpha: float) -> Verdict:
    """Say in which single figures one arm scatters more, after adjusting for their number."""
    tested = [one for one in measures if one["spread"]["p"] is not None]
    if not tested:
        return Verdict("scatter", "untested", "The scatter of no single figure could be tested.")
    shown = [one for one in tested if one["spread"]["p_holm"] <= alpha]
    if shown:
        said = [
            f"{one['title'].lower()} scatters {'more' if one['spread']['wider'] == 'shuffled' else 'less'} when "
            f"reshuffled (adjusted p = {p_value(one['spread']['p_holm'])})"
            for one in shown
        ]
        return Verdict("scatter", "shown", f"Of {len(tested)} single figures, {listed(said)}.")
    lowest = min(tested, key=lambda one: one["spread"]["p"])
    return Verdict(
        "scatter",
        "not_shown",
        f"In none of {len(tested)} single figures could a difference in scatter between seeds be shown (smallest p "
        f"{p_value(lowest['spread']['p'])}, {lowest['title'].lower()}; adjusted for their number "
        f"{p_value(lowest['spread']['p_holm'])}).{_out_of_reach(tested, 'spread', alpha)}",
    )


def level(measures: Sequence[Found], alpha: float) -> Verdict:
    """Say in which figures the arms differ in level, and whether so few seeds could have shown it at all."""
    tested = [one for one in measures if one["level"]["p"] is not None]
    if not tested:
        return Verdict(
            "level", "untested", "No figure could be compared between the arms: at least two seeds are needed."
        )
    shown = [one for one in tested if one["level"]["p_holm"] <= alpha]
    if shown:
        said = [
            f"{one['title'].lower()} ({signed(one['level']['mean'])} where batches were kept, adjusted p = "
            f"{p_value(one['level']['p_holm'])})"
            for one in shown
        ]
        return Verdict("level", "shown", f"The arms differ in {listed(said)}.")
    lowest = min(tested, key=lambda one: one["level"]["p"])
    text = (
        f"No difference in level could be shown in {len(tested)} figures: smallest p {p_value(lowest['level']['p'])} "
        f"({lowest['title'].lower()}).{_out_of_reach(tested, 'level', alpha)}"
    )
    return Verdict("level", "not_shown", text)


def _out_of_reach(tested: Sequence[Found], kind: str, alpha: float) -> str:
    """Say so where no difference, however large, could have been shown: by the seeds, or once adjusted (Holm)."""
    smallest = min(one[kind]["smallest_p"] for one in tested)
    if smallest * len(tested) <= alpha:
        return ""
    adjusted = f" ({p_value(min(1.0, smallest * len(tested)))} adjusted for {len(tested)})" if len(tested) > 1 else ""
    return (
        f" With {max(one['n_seeds'] for one in tested)} seeds the smallest attainable p is {p_value(smallest)}"
        f"{adjusted}, so this test could not have shown one, however large: read the intervals."
    )


def effect(causal: Sequence[Found], alpha: float) -> Verdict:
    """Say what steering the expert set does to refusal of unsafe prompts, beside random sets."""
    own = next((one for one in causal if one["key"] == "refusal_unsafe" and one["real"] and one["baseline"]), None)
    if own is None:
        return Verdict("causal", "untested", "The causal check says nothing of refusal: no unsafe prompt was judged.")
    figures = (
        f"Causal check on the untrained model: steering the set moves refusal of unsafe prompts from "
        f"{percent(own['baseline']['value'])} to {percent(own['real']['value'])}"
    )
    compared = [one for one in own["controls"] if one["p"] is not None]
    if not compared:
        return Verdict("causal", "untested", f"{figures}; there are no random sets to compare with.")
    beside = listed(
        [
            f"{one['n_as_extreme']} of {one['n']} {one['family'].replace('_', '-')} sets move it as far (p = "
            f"{p_value(one['p'])}, smallest attainable {p_value(one['smallest_p'])})"
            for one in compared
        ]
    )
    holds = all(one["p"] <= alpha for one in compared)
    last = (
        "The set matters more than others of its size."
        if holds
        else "That this set matters more than others of its size could not be shown."
    )
    return Verdict("causal", "shown" if holds else "not_shown", f"{figures}; {beside}. {last}")


def held_out(overlap: Found) -> Verdict:
    """Say whether behaviour was measured on prompts that nothing had seen."""
    n, seen = overlap["n_prompts"], overlap["n_seen"]
    if seen:
        return Verdict(
            "held_out",
            "not_shown",
            f"In-sample: {seen} of {n} evaluation prompts, or their groups, had been used to choose the experts or to "
            "train. What behaviour shows here need not hold on new prompts.",
        )
    return Verdict("held_out", "shown", f"Held out: none of the {n} evaluation prompts had been used before.")
