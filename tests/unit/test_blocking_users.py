"""The blocking client and users: it manages them, and it shows a credential itself."""

from __future__ import annotations

import pickle

import pytest

from syncline.client import Client
from syncline.errors import ConfigError, PermissionDenied, Unauthenticated
from tests.helpers.site_server import site_in_thread

PASSWORD = "a long password"


def test_blocking_client_manages_users_and_shows_its_credential() -> None:
    with site_in_thread() as site:
        with Client(site.url) as kv:
            kv.add_role("reader")
            kv.allow("reader", "read", prefix="config/")
            kv.add_user("ann", roles=["reader"])
            kv.add_user("root", PASSWORD, admin=True)
            kv.put("config/mode", "blue")
            kv.enable_auth()
            with pytest.raises(Unauthenticated):
                kv.get("config/mode")
        with Client(site.url, user="root", password=PASSWORD) as root:
            assert root.auth_status().enabled
            assert [user.name for user in root.users()] == ["ann", "root"]
            assert [role.name for role in root.roles()] == ["reader", "root"]
            made = root.new_token("ann", about="the nightly job")
            with Client(site.url, token=made.token) as ann:
                assert ann.get("config/mode") is not None
                with pytest.raises(PermissionDenied):
                    ann.put("config/mode", "green")
                root.disallow("reader", prefix="config/")
                with pytest.raises(PermissionDenied):
                    ann.get("config/mode")
            root.remove_token(made.id)
            assert root.user("ann").tokens == []
            root.disable_auth()


def test_blocking_client_with_a_credential_is_not_sent_to_another_process() -> None:
    """A pickle would hold the credential as it is."""
    with Client("http://127.0.0.1:1", token="syncline_1") as kv, pytest.raises(TypeError, match="credentials"):
        pickle.dumps(kv)


def test_blocking_client_refuses_half_a_credential_at_once() -> None:
    with pytest.raises(ConfigError, match="go together"):
        Client("http://127.0.0.1:1", user="root")
