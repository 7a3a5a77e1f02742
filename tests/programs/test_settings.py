"""Settings from the environment: what is understood, what is refused and in which words."""

import inspect
import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from pydantic import ValidationError

from payment_service import setting_fields
from payment_service.access.settings import OpenIdSettings
from payment_service.payments.following import FollowPlan
from payment_service.payments.rules import PaymentRules
from payment_service.postgres.connecting import ConnectArgumentError, connect_arguments
from payment_service.providers.kaspi.settings import KaspiSettings
from payment_service.rates import Rate, Rates
from payment_service.setting_texts import is_loopback
from payment_service.settings import (
    DEVELOPMENT_FILE,
    Settings,
    SettingsError,
    load,
    load_of_development_server,
)
from payment_service.webhooks.plan import DeliveryPlan

SECRET: Final = "hidden-word"
KEY: Final = "dGhpcyBpcyBhIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ="
OTHER_KEY: Final = "b25lIG1vcmUgdGVzdCBrZXksIGFsc28gbm8gc2VjcmU="
NEEDED: Final = {
    "DATABASE_URL": f"postgresql://service:{SECRET}@db.example/payments",
    "PRODUCTION_API_URL": "https://proxy.example",
    "KASPI_ACCESS_TOKEN": SECRET,
    "ENCRYPTION_KEYS": KEY,
}
OIDC: Final[Mapping[str, str]] = {
    "CONSOLE_URL": "https://pay.example/",
    "CONSOLE_OIDC_ISSUER": "https://id.example/",
    "CONSOLE_OIDC_CLIENT_ID": "console",
    "CONSOLE_OIDC_CLIENT_SECRET": SECRET,
}
LOCAL: Final = {"PRODUCTION_API_URL": "http://127.0.0.1:8016"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's environment nor a ``.env`` decides a test."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Settings:
    return with_environment(monkeypatch, {})


def with_environment(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str | None]) -> Settings:
    """Load with what is needed and these changes; None leaves a setting out."""
    for name, value in {**NEEDED, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return load()


def test_what_is_needed_is_enough_and_the_rest_is_safe(loaded: Settings) -> None:
    assert (loaded.host, loaded.port, loaded.kaspi_deadline_s) == ("127.0.0.1", 8015, 8)
    assert (loaded.debug, loaded.dev_no_auth, loaded.serves_docs, loaded.metrics_public) == (False,) * 4
    assert (loaded.cors_origins, loaded.metrics_token) == ([], None)
    assert (loaded.duplicate_window_s, loaded.error_confirm_s) == (60, 30)


def test_groups_are_made_of_what_was_set_and_know_the_rest(monkeypatch: pytest.MonkeyPatch, loaded: Settings) -> None:
    assert loaded.kaspi == KaspiSettings("https://proxy.example", SECRET)
    assert (loaded.payments, loaded.follow, loaded.delivery) == (PaymentRules(), FollowPlan(), DeliveryPlan())
    assert (loaded.telegram, loaded.email, loaded.openid) == (None, None, None)
    # Each number once, so that no two can be mistaken for each other.
    numbers = {name: str(number) for number, name in enumerate(NUMBERS, start=40)}
    changes = {"KASPI_CONNECT_TIMEOUT_S": "2", "KASPI_DEADLINE_S": "3", "KASPI_WEBHOOK_SECRET": SECRET * 2}
    several = {"FOLLOW_TAILS_S": "1,2", "WEBHOOK_DELAYS_S": "3, 4", "DUPLICATE_WINDOW_S": "95"}
    set_up = with_environment(monkeypatch, {**numbers, **changes, **several, **LOCAL})
    assert set_up.kaspi == KaspiSettings(LOCAL["PRODUCTION_API_URL"], SECRET, SECRET * 2, 3, 2, 40, 41, 42, 43, 44)
    assert set_up.payments == PaymentRules(95, 45, late_effect_s=46, call_deadline_s=3)
    assert set_up.follow == FollowPlan(47, 48, 49, 50, 51, 52, (1, 2))
    assert set_up.delivery == DeliveryPlan((3, 4), 53, 54, 55, 56)
    assert set_up.rates == Rates(Rate(570, 10), Rate(580, 10), (Rate(59, 60), Rate(60, 86400)))
    unlimited = with_environment(monkeypatch, {"RATE_LIMITS": "false", **LOCAL}).rates
    assert unlimited == Rates(Rate(0, 10), Rate(0, 10), (Rate(0, 60), Rate(0, 86400)))


def test_provider_of_identities_is_named_as_its_tokens_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = "https://pay.example/console/openid/callback"
    assert with_environment(monkeypatch, OIDC).openid == OpenIdSettings("https://id.example/", "console", SECRET, there)
    monkeypatch.setattr(setting_fields, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="CONSOLE_OIDC_ISSUER needs what the extra 'oidc' installs"):
        with_environment(monkeypatch, OIDC)


NUMBERS: Final = [
    *("KASPI_MAX_CALLS", "KASPI_MAX_READINGS", "KASPI_CONNECTIONS_AHEAD"),
    *("KASPI_BREAKER_FAILURES", "KASPI_BREAKER_PAUSE_S", "SENDING_LEASE_S", "LATE_EFFECT_S"),
    *("FOLLOW_FIRST_S", "FOLLOW_FAST_S", "FOLLOW_FAST_FOR_S", "FOLLOW_SLOW_S", "FOLLOW_FOR_S", "ERROR_CONFIRM_S"),
    *("WEBHOOK_ORDER_WAIT_S", "WEBHOOK_DISABLE_AFTER_S", "WEBHOOK_CALLS_PER_ENDPOINT", "WEBHOOK_CALLS"),
    *("RATE_PER_KEY", "RATE_PER_ADDRESS", "PHONE_INVOICES_PER_MINUTE", "PHONE_INVOICES_PER_DAY"),
]


def test_dot_env_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = {**NEEDED, "PORT": "9000", "HOST": "127.0.0.2"}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    monkeypatch.setenv("PORT", "9001")
    read = load()
    assert (read.port, read.host) == (9001, "127.0.0.2")


REFUSALS: Final[list[tuple[Mapping[str, str | None], str]]] = [
    *(
        ({"TELEGRAM_BOT_TOKEN": token}, "TELEGRAM_BOT_TOKEN must be a bot's token")
        for token in (SECRET, f"42:{SECRET}/../getMe", f"bot42:{SECRET}")
    ),
    ({"TELEGRAM_API_URL": "http://bot.example"}, "TELEGRAM_API_URL must be https://"),
    ({"SMTP_URL": f"http://pay:{SECRET}@mail.example", "SMTP_FROM": "pay@shop.example"}, "SMTP_URL must be smtps://"),
    ({"SMTP_URL": f"smtps://pay:{SECRET}/@mail.example", "SMTP_FROM": "pay@shop.example"}, "SMTP_URL must be smtps://"),
    ({"SMTP_URL": f"smtps://pay:{SECRET}@mail.example"}, "SMTP_URL needs SMTP_FROM"),
    ({"SMTP_FROM": "nobody"}, "SMTP_FROM "),
    ({"CONSOLE_URL": "pay.example"}, "CONSOLE_URL must be an http:// or https:// address"),
    *(
        ({**OIDC, name: None}, "CONSOLE_OIDC_ISSUER, CONSOLE_OIDC_CLIENT_ID and CONSOLE_OIDC_CLIENT_SECRET go together")
        for name in OIDC
    ),
    ({**OIDC, "CONSOLE_OIDC_ISSUER": "http://id.example"}, "CONSOLE_OIDC_ISSUER must be https:// unless"),
    ({**OIDC, "CONSOLE_OIDC_CLIENT_SECRET": f"'{SECRET}'"}, "CONSOLE_OIDC_CLIENT_SECRET has quotation marks around it"),
    *(({name: None}, f"{name} is not set") for name in NEEDED),
    ({"KASPI_ACCESS_TOKEN": ""}, "KASPI_ACCESS_TOKEN is not set"),
    ({"ENCRYPTION_KEYS": ""}, "ENCRYPTION_KEYS is not set"),
    ({"ENCRYPTION_KEYS": " , "}, "ENCRYPTION_KEYS is not set"),
    *(
        ({"ENCRYPTION_KEYS": keys}, "ENCRYPTION_KEYS must be Fernet keys: make one with")
        for keys in (SECRET, KEY[:-4], f"{KEY},{SECRET}", f"{KEY};{OTHER_KEY}", "ключ")
    ),
    *(
        ({"PRODUCTION_API_URL": url}, "PRODUCTION_API_URL must be an http:// or https:// address")
        for url in (
            "",
            "proxy.example",
            "ftp://proxy.example",
            "https://",
            "https:///create",
            "https://proxy.example:port",
            "https://proxy.example:99999",
            "https://[::1",
            f"https://{SECRET}℀:x@proxy.example",
        )
    ),
    *(
        ({"PRODUCTION_API_URL": url}, "PRODUCTION_API_URL must be https:// unless it is on this machine")
        for url in (
            "http://proxy.example",
            "http://127.0.0.1.proxy.example",
            "http://localhost.proxy.example",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://2130706433",
            "http://127.1",
            "http://[2001:db8::1]",
        )
    ),
    *(
        ({"PRODUCTION_API_URL": url}, "PRODUCTION_API_URL must have no query, fragment or user name")
        for url in (
            f"https://proxy.example/?access_token={SECRET}",
            f"https://user:{SECRET}@proxy.example",
            f"https://:{SECRET}@proxy.example",
            "http://127.0.0.1@proxy.example",
            "http://127.0.0.1\\@proxy.example",
            "http://proxy.example#@127.0.0.1",
        )
    ),
    *(
        ({"DEV_NO_AUTH": "1", "PRODUCTION_API_URL": url}, "DEV_NO_AUTH works only with the stand-in proxy")
        for url in ("https://proxy.example", "https://10.0.0.1", "https://localhost.example", "https://0.0.0.0")
    ),
    *(
        ({"DEV_NO_AUTH": "1", "HOST": host, **LOCAL}, "HOST is on this machine: set HOST=127.0.0.1")
        for host in ("0.0.0.0", "::", "10.0.0.1", "example.kz")
    ),
    ({"WEBHOOKS_STAY_HERE": "1"}, "WEBHOOKS_STAY_HERE works only with the stand-in proxy"),
    ({"DEBUG": "1"}, "DEBUG works only with the stand-in proxy"),
    *(
        ({name: SECRET.join(around), **more}, f"{name} {sentence}")
        for name, more in (
            ("KASPI_ACCESS_TOKEN", {}),
            ("KASPI_WEBHOOK_SECRET", {}),
            ("METRICS_TOKEN", {}),
            ("DATABASE_URL", {}),
            ("SMTP_URL", {"SMTP_FROM": "pay@shop.example"}),
            ("TELEGRAM_BOT_TOKEN", {}),
        )
        for around, sentence in (
            (("", "\n"), "holds a line feed"),
            (("a\r\n", ""), "holds a line feed"),
            (('"', '"'), "has quotation marks around it"),
            (("'", "'"), "has quotation marks around it"),
            (("\u201c", "\u201d"), "has quotation marks around it"),
            ((" ", ""), "has spaces around it"),
            (("", " # ours"), "ends with a comment"),
        )
    ),
    *(
        ({name: f"https://a.example.kz{end}"}, f"{name} holds a space, a line feed")
        for name in ("PRODUCTION_API_URL", "TELEGRAM_API_URL", "CONSOLE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
        for end in ("\r", " # ours")
    ),
    ({"SMTP_URL": "smtps://mail.example.kz:465", "SMTP_FROM": '"a@b.example"'}, "SMTP_FROM has quotation marks around"),
    ({"ENCRYPTION_KEYS": f'"{KEY}"'}, "ENCRYPTION_KEYS has quotation marks around it"),
    ({"ENCRYPTION_KEYS": f"{KEY}\n"}, "ENCRYPTION_KEYS holds a line feed"),
    *(({"HOST": host}, "HOST is empty: set 127.0.0.1") for host in ("", " ")),
    *(({"HOST": host}, "HOST must be an address") for host in ("[::]", '"0.0.0.0"', "http://0.0.0.0", "0.0.0.0 ")),
    *(
        ({"FORWARDED_ALLOW_IPS": proxies}, "FORWARDED_ALLOW_IPS must be addresses or networks")
        for proxies in ("balancer", "10.0.0.1/8", "10.0.0.1,*", "10.0.0.1 10.0.0.2", '"10.0.0.1"')
    ),
    *(
        ({"CORS_ORIGINS": given}, f"and browsers send {sent}: write it so")
        for given, sent in (
            ("https://a.example/", "https://a.example"),
            ("https://a.example/admin", "https://a.example"),
            ("https://a.example?x=1", "https://a.example"),
            ("https://a.example#x", "https://a.example"),
            ("https://A.example", "https://a.example"),
            ("HTTPS://a.example", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://[::1]:8015/", "http://[::1]:8015"),
            ("https://\u0446\u0432\u0435\u0442\u044b.example", "https://xn--b1ag3bn2a.example"),
            ("https://b.example, https://a.example/", "https://a.example"),
        )
    ),
    *(
        ({"CORS_ORIGINS": given}, "CORS_ORIGINS must be origins separated by commas, such as https://")
        for given in (
            "a.example",
            "//a.example",
            "a.example:443",
            "null",
            "https://",
            '["https://a.example"]',
            '["https://a.example", "https://b.example"]',
            '"https://a.example"',
            "'https://a.example'",
            "https://a.example https://b.example",
            "https://a.example;https://b.example",
            "https://*.a.example",
            "https://a.example:port",
            f"https://user:{SECRET}@a.example",
            "ftp://a.example",
        )
    ),
    ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS must name the origins: '*' is for DEBUG only"),
    ({"CORS_ORIGINS": "https://a.example, *"}, "CORS_ORIGINS must name the origins"),
    ({"SENDING_LEASE_S": "8"}, "SENDING_LEASE_S must be longer than KASPI_DEADLINE_S"),
    ({"KASPI_DEADLINE_S": "8.5"}, "KASPI_DEADLINE_S must be at most 8"),
    ({"KASPI_DEADLINE_S": "0"}, "KASPI_DEADLINE_S must be more than 0"),
    ({"KASPI_DEADLINE_S": "nan"}, "KASPI_DEADLINE_S"),
    ({"PORT": "0"}, "PORT must be at least 1"),
    ({"PORT": SECRET}, "PORT must be a whole number"),
    ({"DATABASE_POOL_SIZE": "1"}, "DATABASE_POOL_SIZE must be at least 2"),
    ({"DEBUG": SECRET}, "DEBUG must be true or false"),
    ({"LOG_LEVEL": SECRET}, "LOG_LEVEL must be 'DEBUG', 'INFO'"),
    ({"LATE_EFFECT_S": "119"}, "LATE_EFFECT_S must be at least 120, which is the longest SENDING_LEASE_S"),
    ({"SENDING_LEASE_S": "121"}, "SENDING_LEASE_S must be at most 120"),
    ({"DUPLICATE_WINDOW_S": "44"}, "at least SENDING_LEASE_S + SWEEP_EVERY_S, which is 45"),
    ({"DUPLICATE_WINDOW_S": "-1"}, "DUPLICATE_WINDOW_S must be at least 0"),
    ({"FOLLOW_FAST_S": "0"}, "FOLLOW_FAST_S must be more than 0"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSALS)
def test_refusal_is_a_sentence_that_names_the_setting_and_holds_no_secret(
    changes: Mapping[str, str | None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as refused:
        with_environment(monkeypatch, changes)
    first, *_, last = str(refused.value).split("\n")
    assert sentence in first
    assert not first.endswith(".0")
    assert last == "See .env.example for what each setting means."
    assert_tells_no_secret(refused.value)


def assert_tells_no_secret(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error))
    # The lines of code that a traceback quotes are this file's own.
    shown = "\n".join(line for line in shown.splitlines() if not line.startswith("    "))
    assert not [secret for secret in (SECRET, KEY, OTHER_KEY) if secret in shown]


def test_every_wrong_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refused:
        with_environment(monkeypatch, {**dict.fromkeys(NEEDED), "PORT": "x"})
    for name in (*NEEDED, "PORT"):
        assert re.search(rf"^{name} ", str(refused.value), re.MULTILINE)


def test_validation_error_itself_holds_no_secret() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None, database_url=SECRET, production_api_url=SECRET, encryption_keys=SECRET)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


def test_settings_show_no_secret_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(
        monkeypatch, {"ENCRYPTION_KEYS": f"{KEY},{OTHER_KEY}", "METRICS_TOKEN": f"{SECRET}-of-metrics"}
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert not [secret for secret in (SECRET, KEY, OTHER_KEY) if secret in shown]


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", []),
        (" , ", []),
        ("https://a.example", ["https://a.example"]),
        (" https://a.example ,,https://b.example, ", ["https://a.example", "https://b.example"]),
    ],
)
def test_lists_are_separated_by_commas(text: str, origins: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"CORS_ORIGINS": text}).cors_origins == origins


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.example",
        "http://localhost:3000",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
        "https://a_b.example:8443",
    ],
)
def test_origins_as_browsers_send_them_are_taken(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"CORS_ORIGINS": origin}).cors_origins == [origin]


@pytest.mark.parametrize("proxies", ["127.0.0.1,::1", "10.0.0.0/8", "10.0.0.5,2001:db8::/32", "*", ""])
def test_proxies_are_addresses_and_networks(proxies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"FORWARDED_ALLOW_IPS": proxies}).forwarded_allow_ips == proxies


@pytest.mark.parametrize("secret", ['a"b', "it's", "'half", "pass word"])
def test_quotes_and_spaces_inside_a_secret_are_part_of_it(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, {"KASPI_ACCESS_TOKEN": secret})
    assert settings.kaspi_access_token.get_secret_value() == secret


# --- .env


def env_file(content: bytes) -> None:
    Path(".env").write_bytes(content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_dot_env_may_have_a_byte_order_mark(encoding: str) -> None:
    lines = {
        "DATABASE_URL": NEEDED["DATABASE_URL"],
        **NEEDED,
        "SMTP_FROM": "\u0446\u0432\u0435\u0442\u044b@shop.example",
    }
    env_file("".join(f"{name}={value}\r\n" for name, value in lines.items()).encode(encoding))
    settings = load()
    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]
    assert settings.smtp_from == lines["SMTP_FROM"]


@pytest.mark.parametrize(
    "content",
    ["DATABASE_URL=x".encode("utf-16-le"), "# \u0446\u0432\u0435\u0442\u044b".encode("cp1251"), b"\xff\xfeD"],
    ids=["UTF-16 without a mark", "Windows-1251", "half a letter"],
)
def test_dot_env_in_another_encoding_is_refused_in_a_sentence(content: bytes) -> None:
    env_file(content)
    with pytest.raises(SettingsError, match=r"^\.env is no text in UTF-8: save it anew in that encoding\.$"):
        load()


# --- the development server's settings


def left_behind(**changes: str) -> None:
    DEVELOPMENT_FILE.parent.mkdir()
    settings = {**NEEDED, **LOCAL, "DEV_NO_AUTH": "true", **changes}
    DEVELOPMENT_FILE.write_text(json.dumps({name.lower(): value for name, value in settings.items()}))


def test_commands_find_the_development_servers_settings() -> None:
    assert load_of_development_server() is None
    left_behind()
    settings = load_of_development_server()
    assert settings
    assert settings.production_api_url == LOCAL["PRODUCTION_API_URL"]


@pytest.mark.parametrize("name", NEEDED)
def test_any_real_setting_in_the_environment_means_another_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind()
    monkeypatch.setenv(name, NEEDED[name])
    assert load_of_development_server() is None


def test_dot_env_means_another_service() -> None:
    left_behind()
    env_file(b"")
    assert load_of_development_server() is None


def test_programs_never_take_the_development_servers_settings() -> None:
    left_behind()
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        load()


@pytest.mark.parametrize(
    "changes", [{"PRODUCTION_API_URL": "https://proxy.example"}, {"DEV_NO_AUTH": "false"}], ids=str
)
def test_settings_left_behind_are_of_a_development_server_or_refused(changes: dict[str, str]) -> None:
    left_behind(**changes)
    with pytest.raises(SettingsError, match="holds no settings of a development server") as refused:
        load_of_development_server()
    assert_tells_no_secret(refused.value)


def test_encryption_keys_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = with_environment(monkeypatch, {"ENCRYPTION_KEYS": f"{OTHER_KEY}, {KEY}"}).encryption_keys
    assert [key.get_secret_value() for key in keys] == [OTHER_KEY, KEY]


def test_any_origin_is_allowed_while_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"CORS_ORIGINS": "*", "DEBUG": "true", **LOCAL}).cors_origins == ["*"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:8016", "http://localhost:8016", "http://[::1]:8016"])
def test_no_authentication_is_allowed_on_this_machine(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, {"DEV_NO_AUTH": "true", "HOST": host, "PRODUCTION_API_URL": url})
    assert settings.dev_no_auth


def test_every_address_is_open_to_a_service_with_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"HOST": "0.0.0.0"}).host == "0.0.0.0"


def test_trailing_slash_of_the_proxys_address_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, {"PRODUCTION_API_URL": "https://proxy.example:8443/api/kaspi//"})
    assert settings.production_api_url == "https://proxy.example:8443/api/kaspi"


@pytest.mark.parametrize(
    ("debug", "docs", "served"), [("0", None, False), ("1", None, True), ("1", "0", False), ("0", "1", True)]
)
def test_docs_are_served_as_set_else_in_development(
    debug: str, docs: str | None, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_environment(monkeypatch, {"DEBUG": debug, "DOCS_ENABLED": docs, **LOCAL}).serves_docs is served


def test_empty_metrics_token_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, {"METRICS_TOKEN": ""}).metrics_token is None


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "localhost.example", "127.0.0.1.example", "127.1", "10.0.0.1", "[::1]", "LOCALHOST "]
)
def test_what_may_mean_another_machine_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


# --- DATABASE_URL

PLAIN: Final = {
    "host": "db.example",
    "port": 5432,
    "user": "service",
    "password": "word",
    "database": "payments",
    "ssl": "prefer",
}
SPELLINGS: Final[list[tuple[str, Mapping[str, object]]]] = [
    ("postgres://service:word@db.example/payments", {}),
    ("postgresql://service:word@db.example/payments", {}),
    ("postgresql+asyncpg://service:word@db.example/payments", {}),
    ("postgresql://service:word@db.example:6432/payments", {"port": 6432}),
    ("postgresql://service@db.example/payments", {"password": None}),
    ("postgresql://db.example/payments", {"user": "postgres", "password": None}),
    ("postgresql://service:word@/payments", {"host": "127.0.0.1"}),
    ("postgresql://service:word@/payments?host=/run/postgresql", {"host": "/run/postgresql"}),
    ("postgresql://service:word@[2001:db8::1]:6432/payments", {"host": "2001:db8::1", "port": 6432}),
    ("postgresql://service:word@[::1]/payments", {"host": "::1"}),
    ("postgresql://service:p%40ss%2Fw%3Ar%23d%25%2B+@db.example/payments", {"password": "p@ss/w:r#d%++"}),
    ("postgresql://s%C3%A9rvice%40kz:word@db.example/pay%20ments", {"user": "sérvice@kz", "database": "pay ments"}),
    *(
        (f"postgresql://service:word@db.example/payments?sslmode={mode}", {"ssl": mode})
        for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
    ),
    ("postgresql+asyncpg://service:word@db.example/payments?ssl=require", {"ssl": "require"}),
    (
        "postgresql://service:word@db.example/payments?application_name=x&sslmode=require",
        {"ssl": "require", "server_settings": {"application_name": "x"}},
    ),
    (
        "postgresql://service:word@db.example/payments?options=-c%20search_path%3Dpay",
        {"server_settings": {"options": "-c search_path=pay"}},
    ),
    ("postgresql://?host=db.example&port=5432&user=service&password=word&dbname=payments", {}),
    ("postgresql:///payments?host=db.example&user=service&password=word", {}),
    ("postgresql://service:word@db.example/?database=payments", {}),
    ("postgresql://service:word@db.example/payments?host=db.example&port=5432&user=service", {}),
    ("postgresql://service@db.example/payments?password=a+b%20c", {"password": "a+b c"}),
    (
        "postgresql://service:word@db.example/payments?target_session_attrs=read-write",
        {"target_session_attrs": "read-write"},
    ),
    ("postgresql://service:word@db.example/payments?channel_binding=prefer&gssencmode=disable", {}),
    ("postgresql://service:word@db.example/pay%2Fments", {"database": "pay/ments"}),
    *(
        (address, {"host": ["a", "b"], "port": [5432, port], "target_session_attrs": "read-write"})
        for address, port in (
            ("postgresql://service:word@a,b/payments", 5432),
            ("postgresql://service:word@a:5432,b:6432/payments", 6432),
            ("postgresql://service:word@/payments?host=a,b", 5432),
            ("postgresql://service:word@/payments?host=a,b&port=5432,6432&target_session_attrs=read-write", 6432),
        )
    ),
    (
        "postgresql://service:word@a,b/payments?target_session_attrs=primary",
        {"host": ["a", "b"], "port": [5432, 5432], "target_session_attrs": "primary"},
    ),
    (
        "postgresql://service:word@db.example/payments?sslmode=verify-full&sslrootcert=/dev/null&sslcert=/dev/null",
        {"ssl": "verify-full", "dsn": "postgresql://?sslrootcert=%2Fdev%2Fnull&sslcert=%2Fdev%2Fnull"},
    ),
]


@pytest.mark.parametrize(("url", "changes"), SPELLINGS, ids=[url for url, _ in SPELLINGS])
def test_every_usual_spelling_of_a_database_address_is_understood(url: str, changes: Mapping[str, object]) -> None:
    assert connect_arguments(url) == {**PLAIN, **changes}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "must start with postgresql://"),
        ("db.example/payments", "must start with postgresql://"),
        (f"mysql://service:{SECRET}@db.example/payments", "must start with postgresql://"),
        (f"sqlite:///{SECRET}", "must start with postgresql://"),
        (f"postgresql://service:{SECRET}@db.example/payments?sslmode=maybe", "unknown sslmode 'maybe'"),
        (f"postgresql://service:{SECRET}@db.example/payments?ssl=true", "unknown sslmode 'true'"),
        (f"postgresql://service:{SECRET}@db.example:port/payments", "the port is a number"),
        (f"postgresql://service:{SECRET}@db.example:70000/payments", "the port is a number"),
        (f"postgresql://service:{SECRET}/rest@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:{SECRET}#rest@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:{SECRET}[rest@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:{SECRET}℀@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:{SECRET}@[::1/payments", "an IPv6 address stands in brackets"),
        (f"postgresql://service:{SECRET}@db.example/payments#x", "must be percent-encoded"),
        (f"postgresql://service:12/{SECRET}@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:12?{SECRET}@db.example/payments", "must be percent-encoded"),
        (f"postgresql://service:12?{SECRET}", "a parameter that cannot be read"),
        ("postgresql://service:word@db.example:5432", "DATABASE_URL names no database"),
        (f"postgresql://service:{SECRET}@db.example/payments?connect_timeout=10", "the parameter connect_timeout"),
        (f"postgresql://service:{SECRET}@db.example/payments?pgbouncer=true", "the parameter pgbouncer, which is not"),
        (f"postgresql://service:{SECRET}@db.example/payments?schema=pay", "the parameter schema, which is not"),
        (f"postgresql://service:{SECRET}@db.example/payments?sslmode=", "gives no value to its parameter sslmode"),
        (f"postgresql://service:{SECRET}@db.example/payments?port", "gives no value to its parameter port"),
        (f"postgresql://service:{SECRET}@db.example/payments?port=54x", "the port is a number"),
        (f"postgresql://service:{SECRET}@db.example/payments?port=0", "the port is a number"),
        (f"postgresql://service:{SECRET}@db.example:5432/payments?port=6432", "states its port twice"),
        (f"postgresql://service:{SECRET}@db.example/payments?host=other", "states its host twice"),
        (f"postgresql://service:{SECRET}@db.example/payments?dbname=other", "states its database twice"),
        (f"postgresql://service:{SECRET}@db.example/payments?password=other", "states its password twice"),
        (f"postgresql://service:{SECRET}@db.example/payments?user=a&user=b", "states its user twice"),
        (f"postgresql://service:{SECRET}@db.example/payments?sslmode=require&ssl=disable", "states its sslmode twice"),
        (f"postgresql://service:{SECRET}@a,b/payments?target_session_attrs=any", "names several hosts"),
        (f"postgresql://service:{SECRET}@a,b/payments?target_session_attrs=standby", "names several hosts"),
        (f"postgresql://service:{SECRET}@a,b/payments?port=1,2,3", "states its port twice"),
        (f"postgresql://service:{SECRET}@/payments?host=a,b&port=1,2,3", "2 hosts and 3 ports"),
        (f"postgresql://service:{SECRET}@a:x,b/payments", "the port is a number"),
        (f"postgresql://service:{SECRET}@a,/payments", "cannot be read"),
        (f"postgresql://service:{SECRET}@db.example/payments?channel_binding=require", "asks for channel_binding"),
        (f"postgresql://service:{SECRET}@db.example/payments?sslrootcert=/dev/null", "counts only with sslmode="),
        (f"postgresql://service:{SECRET}@db.example/p?sslmode=verify-ca&sslrootcert=/no/ca.pem", "/no/ca.pem (No such"),
        (f"postgresql://service:{SECRET}@db.example/p?sslcert=/no/crt.pem", "names a file in sslcert"),
    ],
)
def test_other_database_addresses_are_refused_in_a_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(ConnectArgumentError, match=re.escape(sentence)) as refused:
        connect_arguments(url)
    assert str(refused.value).startswith("DATABASE_URL ")
    assert_tells_no_secret(refused.value)


def test_every_setting_has_a_line_in_the_example() -> None:
    example = Path(inspect.getfile(Settings)).parents[2] / ".env.example"
    lines = example.read_text(encoding="utf-8")
    absent = [name for name in Settings.model_fields if not re.search(rf"^(# )?{name.upper()}=", lines, re.MULTILINE)]
    assert absent == []
