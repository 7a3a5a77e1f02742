"""All settings by name, with their checks.

Each has a line in ``.env.example``. Times are seconds.
"""

import re
from importlib.util import find_spec
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from payment_service.notifications.settings import BOT_API
from payment_service.notifications.smtp import SmtpServer
from payment_service.payments.following import FollowPlan
from payment_service.payments.rules import LONGEST_LEASE_S, PaymentRules
from payment_service.providers.kaspi.settings import KaspiSettings
from payment_service.setting_texts import (
    check_host,
    check_origin,
    check_proxies,
    check_secret,
    checked_address,
    is_loopback,
    trace_headers_of,
)
from payment_service.webhooks.plan import DeliveryPlan

_FERNET_KEY_LENGTH = 44
_E_MAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_BOT_TOKEN = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
Seconds = Annotated[float, Field(gt=0, le=86400 * 7)]


class SettingFields(BaseSettings):
    """The settings, each checked by itself and then all together."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", hide_input_in_errors=True)

    # --- the database
    database_url: SecretStr
    database_direct_url: SecretStr | None = None
    database_pool_size: int = Field(default=20, ge=2, le=500)
    database_wait_s: float = Field(default=60, ge=0, le=3600)

    # --- the provider
    production_api_url: str
    kaspi_access_token: SecretStr = Field(min_length=1)
    kaspi_webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    kaspi_deadline_s: float = Field(default=KaspiSettings.deadline_s, gt=0, le=8)
    kaspi_connect_timeout_s: float = Field(default=KaspiSettings.connect_timeout_s, gt=0, le=8)
    kaspi_connections_ahead: int = Field(default=KaspiSettings.connections_ahead, ge=0, le=100)
    kaspi_max_calls: int = Field(default=KaspiSettings.max_calls, ge=1, le=1000)
    kaspi_max_readings: int = Field(default=KaspiSettings.max_readings, ge=1, le=1000)
    kaspi_breaker_failures: int = Field(default=KaspiSettings.breaker_failures, ge=0, le=1000)
    kaspi_breaker_pause_s: Seconds = KaspiSettings.breaker_pause_s

    # --- the API
    host: str = "127.0.0.1"
    port: int = Field(default=8015, ge=1, le=65535)
    worker_port: int | None = Field(default=None, ge=1, le=65535)
    forwarded_allow_ips: str = "127.0.0.1,::1"
    cors_origins: Annotated[list[str], NoDecode] = []
    debug: bool = False
    docs_enabled: bool | None = None
    dev_no_auth: bool = False
    metrics_token: SecretStr | None = None
    metrics_public: bool = False
    shutdown_grace_s: Seconds = 15
    rate_limits: bool = True
    rate_per_key: int = Field(default=100, ge=0, le=100_000)
    rate_per_address: int = Field(default=20, ge=0, le=100_000)
    phone_invoices_per_minute: int = Field(default=10, ge=0, le=100_000)
    phone_invoices_per_day: int = Field(default=100, ge=0, le=100_000)
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_headers: SecretStr | None = None
    sentry_dsn: SecretStr | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # --- routing
    route_change_needs_two: bool | None = None

    # --- secrets at rest
    encryption_keys: Annotated[list[SecretStr], NoDecode] = Field(min_length=1)

    # --- streams and waiting requests
    waiting_per_key: int = Field(default=200, ge=1, le=10000)
    waiting_in_all: int = Field(default=1000, ge=1, le=10000)

    # --- payments
    duplicate_window_s: int = Field(default=PaymentRules.duplicate_window_s, ge=0, le=86400)
    sending_lease_s: float = Field(default=PaymentRules.sending_lease_s, gt=0, le=LONGEST_LEASE_S)
    error_confirm_s: Seconds = FollowPlan.confirm_s
    late_effect_s: float = Field(default=PaymentRules.late_effect_s, ge=0, le=86400)

    # --- messages to people
    telegram_bot_token: SecretStr | None = None
    telegram_api_url: str = BOT_API
    smtp_url: SecretStr | None = None
    smtp_from: str | None = None
    console_url: str | None = None

    # --- signing in to the console through an OpenID provider
    console_oidc_issuer: str | None = None
    console_oidc_client_id: str | None = None
    console_oidc_client_secret: SecretStr | None = None

    # --- webhooks
    webhook_delays_s: Annotated[tuple[Seconds, ...], NoDecode] = DeliveryPlan.delays_s
    webhook_order_wait_s: float = Field(default=DeliveryPlan.order_wait_s, ge=0, le=60)
    webhook_disable_after_s: Seconds = DeliveryPlan.disable_after_s
    webhook_calls: int = Field(default=DeliveryPlan.at_once_in_all, ge=1, le=1000)
    webhook_calls_per_endpoint: int = Field(default=DeliveryPlan.at_once, ge=1, le=100)
    webhooks_stay_here: bool = False

    # --- the worker
    worker_in_serve: bool = False
    follow_first_s: Seconds = FollowPlan.first_s
    follow_fast_s: Seconds = FollowPlan.fast_s
    follow_fast_for_s: Seconds = FollowPlan.fast_for_s
    follow_slow_s: Seconds = FollowPlan.slow_s
    follow_for_s: Seconds = FollowPlan.follow_for_s
    follow_tails_s: Annotated[tuple[Seconds, ...], NoDecode] = FollowPlan.tails_s
    sweep_every_s: Seconds = 15

    @field_validator("cors_origins", "encryption_keys", "follow_tails_s", "webhook_delays_s", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator(
        "database_url",
        "database_direct_url",
        "kaspi_access_token",
        "kaspi_webhook_secret",
        "metrics_token",
        "encryption_keys",
        "telegram_bot_token",
        "smtp_url",
        "otel_exporter_otlp_headers",
        "sentry_dsn",
        "console_oidc_client_secret",
        "smtp_from",
        mode="before",
    )
    @classmethod
    def _check_secret(cls, value: object, info: ValidationInfo) -> object:
        # Pydantic runs the last of such checks first, so this one sees keys before they are split.
        return check_secret(value, spaces=info.field_name == "encryption_keys") if isinstance(value, str) else value

    @field_validator(
        "database_direct_url",
        "metrics_token",
        "kaspi_webhook_secret",
        "telegram_bot_token",
        "smtp_url",
        "smtp_from",
        "console_url",
        "console_oidc_issuer",
        "console_oidc_client_id",
        "console_oidc_client_secret",
        "worker_port",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_headers",
        "sentry_dsn",
        "route_change_needs_two",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: list[str]) -> list[str]:
        return [check_origin(origin) for origin in value]

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        return check_host(value)

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        return check_proxies(value)

    @field_validator("production_api_url", "telegram_api_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = checked_address(value)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("must be https:// unless it is on this machine: what is asked of it carries secrets")
        return value.rstrip("/")

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _check_collector(cls, value: str | None) -> str | None:
        if value is not None:
            checked_address(value)
        return value

    @field_validator("otel_exporter_otlp_headers")
    @classmethod
    def _check_trace_headers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            dict(trace_headers_of(value.get_secret_value()))
        return value

    @field_validator("console_url")
    @classmethod
    def _check_console_url(cls, value: str | None) -> str | None:
        if value is not None:
            checked_address(value)
        return value and value.rstrip("/")

    @field_validator("console_oidc_issuer")
    @classmethod
    def _check_issuer(cls, value: str | None) -> str | None:
        # As it is, with a slash at its end or without: the provider's tokens name it in the same spelling.
        if value is not None:
            cls._check_url(value)
        return value

    @field_validator("telegram_bot_token")
    @classmethod
    def _check_bot_token(cls, value: SecretStr | None) -> SecretStr | None:
        # It becomes part of an address.
        if value is not None and not _BOT_TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("must be a bot's token as BotFather gives it: digits, a colon, letters")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            SmtpServer.of(value.get_secret_value())
        return value

    @field_validator("smtp_from")
    @classmethod
    def _check_sender(cls, value: str | None) -> str | None:
        if value is not None and not _E_MAIL.fullmatch(value):
            raise ValueError("must be an e-mail address alone, such as pay@example.kz")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _check_keys(cls, value: list[SecretStr]) -> list[SecretStr]:
        for key in value:
            try:
                Fernet(key.get_secret_value())
            except ValueError:
                usable = False
            else:
                # Fernet ignores what follows a key's padding: two keys without a comma would be one, silently.
                usable = len(key.get_secret_value()) == _FERNET_KEY_LENGTH
            if not usable:
                raise ValueError("must be Fernet keys: make one with 'payment-service secrets new-key'")
        return value

    @property
    def provider_is_here(self) -> bool:
        """Whether the provider is the stand-in: only that may be on this machine."""
        return is_loopback(urlsplit(self.production_api_url).hostname or "")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.debug and not self.provider_is_here:
            raise ValueError(
                "DEBUG works only with the stand-in proxy on this machine, and PRODUCTION_API_URL points elsewhere: "
                "remove DEBUG; DOCS_ENABLED and LOG_LEVEL do what of it is safe"
            )
        if self.dev_no_auth:
            if not self.provider_is_here:
                raise ValueError(
                    "DEV_NO_AUTH works only with the stand-in proxy on this machine, and PRODUCTION_API_URL "
                    "points elsewhere: remove DEV_NO_AUTH and make keys with 'payment-service keys create'"
                )
            if not is_loopback(self.host):
                raise ValueError("DEV_NO_AUTH works only when HOST is on this machine: set HOST=127.0.0.1")
        if self.webhooks_stay_here and not self.provider_is_here:
            raise ValueError(
                "WEBHOOKS_STAY_HERE works only with the stand-in proxy on this machine, and PRODUCTION_API_URL points "
                "elsewhere: remove WEBHOOKS_STAY_HERE"
            )
        if self.sending_lease_s <= self.kaspi_deadline_s:
            raise ValueError("SENDING_LEASE_S must be longer than KASPI_DEADLINE_S")
        if self.late_effect_s < LONGEST_LEASE_S and not self.provider_is_here:
            raise ValueError(
                f"LATE_EFFECT_S must be at least {LONGEST_LEASE_S}, which is the longest SENDING_LEASE_S of any "
                "process, and the longest time that a call can be on its way: a call leaves until its lease is over, "
                "and its payment must not be settled as never made before that"
            )
        found_after_s = self.sending_lease_s + self.sweep_every_s
        if 0 < self.duplicate_window_s < found_after_s:
            raise ValueError(
                f"DUPLICATE_WINDOW_S must be at least SENDING_LEASE_S + SWEEP_EVERY_S, which is {found_after_s:g}: "
                "until then it is not known what a process that died has sent. 0 means no window at all"
            )
        if self.smtp_url is not None and self.smtp_from is None:
            raise ValueError("SMTP_URL needs SMTP_FROM: the address that mails come from")
        oidc = (self.console_oidc_issuer, self.console_oidc_client_id, self.console_oidc_client_secret)
        if any(oidc) and not (all(oidc) and self.console_url):
            raise ValueError(
                "CONSOLE_OIDC_ISSUER, CONSOLE_OIDC_CLIENT_ID and CONSOLE_OIDC_CLIENT_SECRET go together, and need "
                "CONSOLE_URL: the provider sends browsers back there"
            )
        if any(oidc) and find_spec("authlib") is None:
            raise ValueError("CONSOLE_OIDC_ISSUER needs what the extra 'oidc' installs: docs/deploy.md says how")
        if "*" in self.cors_origins and not self.debug:
            raise ValueError("CORS_ORIGINS must name the origins: '*' is for DEBUG only")
        return self
