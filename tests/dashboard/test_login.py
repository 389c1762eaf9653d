"""Streamlit's own login in front of the pages: nobody sees data before, and a login alone is not enough."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import APP
from tests.dashboard.reading import words

AUTH = {"redirect_uri": "http://127.0.0.1:8322/oauth2callback", "cookie_secret": "x" * 40, "client_id": "us"}
AUTH |= {"client_secret": "y", "server_metadata_url": "http://127.0.0.1:9/.well-known/openid-configuration"}


def seen_by(api: Backdrop, monkeypatch: pytest.MonkeyPatch, user: dict[str, object], named: str) -> str:
    """What the overview shows to a user of the provider, where the operator named these."""
    monkeypatch.setenv("ROUTEPRINT_API_URL", api.url)
    monkeypatch.setenv("ROUTEPRINT_DASHBOARD_USERS", named)
    at = AppTest.from_file(str(APP), default_timeout=30)
    at.secrets["auth"] = AUTH
    at.user = user
    at.run()
    assert not at.exception, at.exception
    return words(at) + " ".join(button.label for button in at.button)


def test_before_the_login_there_is_a_button_and_no_data(empty: Backdrop, monkeypatch: pytest.MonkeyPatch) -> None:
    said = seen_by(empty, monkeypatch, {"is_logged_in": False}, "ada@lab.example")
    assert "Log in" in said
    assert "Start here" not in said


def test_a_named_user_sees_the_pages(empty: Backdrop, monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"is_logged_in": True, "email": "ada@lab.example", "email_verified": True}
    assert "Start here" in seen_by(empty, monkeypatch, user, "bob@lab.example, ADA@lab.example")


@pytest.mark.parametrize("named", ["", "bob@lab.example", "@else.example"])
def test_a_user_whom_nobody_named_sees_nothing(empty: Backdrop, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    said = seen_by(empty, monkeypatch, {"is_logged_in": True, "email": "<b>ada@lab.example"}, named)
    assert "Not among the users" in said
    assert "<b>ada" not in said
    assert "Start here" not in said


def test_without_a_login_configured_the_pages_are_as_ever(empty: Backdrop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEPRINT_API_URL", empty.url)
    at = AppTest.from_file(str(APP), default_timeout=30).run()
    assert "Start here" in words(at)
