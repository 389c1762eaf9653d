"""Name, tags, notes, deleting with undo: the same for every kind of run, and for prompt sets."""

from html import escape

import streamlit as st

from dashboard import address, ui, words
from dashboard.client import Api, ApiRefused, Json
from dashboard.parts import again

VIEW = {"analyses": "analysis", "trainings": "training", "evaluations": "evaluation", "comparisons": "compare"}
VIEW |= {"studies": "study", "datasets": "datasets"}
_DELETED = "just-deleted"


def show(api: Api, kind: str, run: Json) -> None:
    """Show the form for name, tags and notes, and the way to delete. kind: one of VIEW."""
    if kind in again.VIEW:
        again.link(kind, run)
    if run["deleted_at"]:
        return
    st.subheader("Name, tags and notes")
    with st.form("keeping", border=False):
        with st.container(horizontal=True):
            name = st.text_input("Name", run["name"], width=460)
            tags = st.text_input(
                "Tags", ", ".join(run["tags"]), width=280, placeholder="pilot, seed 0", help="Separated by commas."
            )
        notes = st.text_area("Notes", run["notes"] or "", width=760, height=90)
        save = st.form_submit_button("Save")
    delete = st.button("Delete", icon=":material/delete:", type="tertiary", help="Can be undone on the list.")
    try:
        if save:
            api.patch(f"/{kind}/{run['id']}", {"name": name, "tags": tag_list(tags), "notes": notes})
            st.rerun()
        if delete:
            api.delete(f"/{kind}/{run['id']}")
            st.session_state[_DELETED] = (kind, run["id"], run["name"])
            address.go(VIEW[kind])
    except ApiRefused as error:
        ui.refused(error)


def offer_restore(kind: str, run: Json) -> None:
    """On the page of one that is deleted: say so, and offer to bring it back. Shows nothing where it is not."""
    if not run["deleted_at"]:
        return
    days = ui.api().get("/system")["deleted_days"]
    ui.card(
        f"Deleted {words.ago(run['deleted_at'])}",
        [
            f"It is hidden from every list. {days:g} days after it was deleted it is removed for good, unless a run "
            "that stays refers to it; until then it can be restored."
        ],
    )
    if st.button("Restore", icon=":material/undo:", type="primary"):
        try:
            ui.api().post(f"/{kind}/{run['id']}/undelete")
        except ApiRefused as error:
            ui.refused(error)
            return
        st.rerun()


def tag_list(text: str) -> list[str]:
    """'pilot, seed 0,' -> ['pilot', 'seed 0']; each once, in their order."""
    return list(dict.fromkeys(tag for part in text.split(",") if (tag := " ".join(part.split()))))


def offer_undo(api: Api, kind: str) -> None:
    """On a list: say what was just deleted in this session and offer to bring it back."""
    deleted = st.session_state.get(_DELETED)
    if not deleted or deleted[0] != kind:
        return
    _, run_id, name = deleted
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="rp-note" role="status">Deleted “{escape(name)}”.</p>', width="content")
        if st.button("Undo", icon=":material/undo:", type="tertiary"):
            st.session_state.pop(_DELETED)
            try:
                api.post(f"/{kind}/{run_id}/undelete")
            except ApiRefused as error:
                ui.refused(error)
                return
            address.go(VIEW[kind], id=run_id)
