"""The page list, behind the login where one is configured, and nothing else.

The pages lie in `views`: a folder called `pages` beside this file would make Streamlit list it by itself.
"""

import streamlit as st

from dashboard import login
from dashboard.assets import ICON, WORDMARK

st.set_page_config(page_title="Routeprint", page_icon=str(ICON), layout="wide")
st.logo(str(WORDMARK), size="medium")
if login.may_see():
    st.navigation(
        [
            st.Page("views/overview.py", title="Overview", default=True),
            st.Page("views/datasets.py", title="Prompt sets", url_path="datasets"),
            st.Page("views/analysis.py", title="Analyses", url_path="analysis"),
            st.Page("views/batch.py", title="Batches", url_path="batch"),
            st.Page("views/training.py", title="Trainings", url_path="training"),
            st.Page("views/compare.py", title="Compare", url_path="compare"),
            st.Page("views/evaluations.py", title="Evaluations", url_path="evaluation"),
            st.Page("views/study.py", title="Studies", url_path="study"),
            st.Page("views/jobs.py", title="Jobs", url_path="jobs"),
        ],
        position="top",
    ).run()
