from typing import Any

import pytest

from kaspi_sandbox import SandboxConfig


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_where_it_listens(host: str) -> None:
    assert SandboxConfig(access_token="x", host=host).host == host


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"host": "0.0.0.0"}, "loopback only"),
        ({"host": "::"}, "loopback only"),
        ({"host": "sandbox.example"}, "loopback only"),
        ({"access_token": ""}, "needs an access token"),
        ({"pay_after_s": -1}, "cannot be negative"),
        ({"merchants": {"123": {"token"}}}, "12 digits"),
        ({"default_merchant": ""}, "12 digits"),
    ],
)
def test_a_dangerous_setting_is_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SandboxConfig(**({"access_token": "x"} | changes))


def test_secrets_are_not_in_the_text_of_the_settings() -> None:
    text = repr(SandboxConfig(access_token="very-secret", merchants={"920317450731": {"token-secret"}}))
    assert "secret" not in text
