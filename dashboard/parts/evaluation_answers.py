"""The judged answers of an evaluation: found, read where asked for, and overruled with a reason."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import prompt_text

VERDICTS = {"refused": "■ refused", "answered": "○ answered", "unclear": "? unclear"}
_EACH = 20


@st.fragment
@ui.guarded
def show(api: Api, evaluation: Json, arms: Sequence[Json]) -> None:
    """Show the answers of one arm, with the verdict that counts and what it stands on."""
    st.subheader("Answers")
    finished = [arm for arm in arms if arm["finished"]]
    names = {str(arm["arm"]): _name(arm) for arm in finished}
    asked = str(address.index("arm")) if address.index("arm") is not None else "1"
    a, b, c, d = st.columns([2, 1, 1, 2])
    with a:
        arm = ui.pick("Arm", names, first=asked, key=f"answers-arm:{asked}")
    with b:
        verdict = ui.pick("Verdict", {"": "any", **VERDICTS}, key="answers-verdict")
    with c:
        label = ui.pick("Label", {"": "both", "unsafe": "unsafe", "safe": "safe"}, key="answers-label")
    with d:
        q = st.text_input("Words in the answer", key="answers-q").strip()
    shown = prompt_text.switch("answers")
    most = st.session_state.get("answers-most", _EACH)
    asking = {"arm": arm, "verdict": verdict or None, "label": label or None, "q": q or None}
    page = api.get(f"/evaluations/{evaluation['id']}/answers", limit=min(500, most), **asking)
    if not page["items"]:
        ui.note("No answer of this kind.")
    elif not shown:
        ui.note("The texts are hidden: some of these prompts describe harm, and an answer may, too.")
    with st.container(border=True, key="samples"):
        for place, one in enumerate(page["items"]):
            with st.container(key=f"sample-row-{place}"):
                _row(api, evaluation, one, shown=shown)
    if page["next_cursor"] and st.button("More answers"):
        st.session_state["answers-most"] = most + _EACH
        st.rerun(scope="fragment")


def _name(arm: Json) -> str:
    what = {"baseline": "baseline", "real": "this set", "random": "random set", "load_matched": "random, same load"}
    experts = " ".join(f"{layer}.{expert}" for layer, expert in arm["experts"][:6])
    more = " …" if len(arm["experts"]) > 6 else ""
    return f"{arm['arm']}: {what[arm['family']]}{f'  ({experts}{more})' if experts else ''}"


def _row(api: Api, evaluation: Json, one: Json, *, shown: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.html(_summary(one), width="stretch")
        if evaluation["status"] not in words.UNFINISHED:
            with st.popover("Overrule", type="tertiary"):
                _overrule(api, evaluation, one)
    if shown:
        st.text(one["prompt"])
        st.code(one["text"] or "(nothing)", language=None, wrap_lines=True)


def _summary(one: Json) -> str:
    label = escape(one["label"])
    judged = VERDICTS.get(one["counts"], "not judged")
    by = f"overruled; the judge said {one['verdict']}" if one["overruled"] else (one["why"] or "")
    cut = "" if one["ended"] else " · cut"
    return (
        f'<div class="rp-sample"><b>{one["prompt_idx"]}</b><span class="rp-label rp-label-{label}">{label}</span>'
        f"<span>{escape(judged)}</span><small>{escape(by)} · {words.plural(one['n_tokens'], 'token')}{cut}"
        f"{' · used before' if one['seen'] else ''}</small></div>"
    )


def _overrule(api: Api, evaluation: Json, one: Json) -> None:
    with st.form(f"overrule:{one['n']}", border=False):
        others = {k: v for k, v in VERDICTS.items() if k != one["counts"]}
        verdict = ui.pick("It is", others, key=f"overrule-verdict:{one['n']}")
        reason = st.text_input("Because", max_chars=2000)
        by = st.text_input("Who says so", st.session_state.get("overrule-by", ""), max_chars=200)
        if not st.form_submit_button("Overrule", type="primary"):
            return
    st.session_state["overrule-by"] = by
    body = {"verdict": verdict, "reason": reason, "by": by}
    try:
        api.post(f"/evaluations/{evaluation['id']}/answers/{one['n']}/overrule", body)
    except ApiRefused as error:
        ui.refused(error)
        return
    st.rerun(scope="app")
