"""All settings by name, with their checks.

Each has a line in ``.env.example``. Times are seconds.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from payment_service.notifications.settings import BOT_API
from payment_service.notifications.smtp import SmtpServer
from payment_service.payments.following import FollowPlan
from payment_service.payments.rules import LONGEST_LEASE_S, PaymentRules
from payment_service.providers.kaspi.settings import KaspiSettings
from payment_service.setting_texts import (
    check_bot_token,
    check_encryption_key,
    check_host,
    check_origin,
    check_proxies,
    check_secret,
    check_secure_url,
    check_sender,
    check_url,
    is_loopback,
    split_at_commas,
    trace_headers_of,
)
from payment_service.webhooks.plan import DeliveryPlan

Value = TypeVar("Value")
OrUnset = Annotated[Value | None, BeforeValidator(lambda value: value or None)]
"""A setting that is empty counts as not set."""
Seconds = Annotated[float, Field(gt=0, le=86400 * 7)]
Port = Annotated[int, Field(ge=1, le=65535)]
Url = Annotated[str, AfterValidator(check_url)]
SecureUrl = Annotated[str, AfterValidator(check_secure_url)]
# Pydantic runs the last of several BeforeValidators first.
SplitAtCommas = BeforeValidator(split_at_commas)
Plain = BeforeValidator(check_secret)
Secret = Annotated[SecretStr, Plain]
WithoutSlash = AfterValidator(lambda url: url.rstrip("/"))


def _holds(check: Callable[[str], object]) -> AfterValidator:
    """The check of what a secret holds."""

    def checked(secret: SecretStr) -> SecretStr:
        check(secret.get_secret_value())
        return secret

    return AfterValidator(checked)


class SettingFields(BaseSettings):
    """The settings, each checked by itself and then all together."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", hide_input_in_errors=True)

    # --- the database
    database_url: Secret
    database_direct_url: OrUnset[Secret] = None
    database_pool_size: int = Field(default=20, ge=2, le=500)
    database_wait_s: float = Field(default=60, ge=0, le=3600)

    # --- the provider
    production_api_url: Annotated[SecureUrl, WithoutSlash]
    kaspi_access_token: Annotated[SecretStr, Field(min_length=1), Plain]
    kaspi_webhook_secret: OrUnset[Annotated[SecretStr, Field(min_length=16), Plain]] = None
    kaspi_deadline_s: float = Field(default=KaspiSettings.deadline_s, gt=0, le=8)
    kaspi_connect_timeout_s: float = Field(default=KaspiSettings.connect_timeout_s, gt=0, le=8)
    kaspi_connections_ahead: int = Field(default=KaspiSettings.connections_ahead, ge=0, le=100)
    kaspi_max_calls: int = Field(default=KaspiSettings.max_calls, ge=1, le=1000)
    kaspi_max_readings: int = Field(default=KaspiSettings.max_readings, ge=1, le=1000)
    kaspi_breaker_failures: int = Field(default=KaspiSettings.breaker_failures, ge=0, le=1000)
    kaspi_breaker_pause_s: Seconds = KaspiSettings.breaker_pause_s

    # --- the API
    host: Annotated[str, AfterValidator(check_host)] = "127.0.0.1"
    port: Port = 8015
    worker_port: OrUnset[Port] = None
    forwarded_allow_ips: Annotated[str, AfterValidator(check_proxies)] = "127.0.0.1,::1"
    cors_origins: Annotated[list[Annotated[str, AfterValidator(check_origin)]], NoDecode, SplitAtCommas] = []
    debug: bool = False
    docs_enabled: bool | None = None
    dev_no_auth: bool = False
    metrics_token: OrUnset[Secret] = None
    metrics_public: bool = False
    shutdown_grace_s: Seconds = 15
    rate_limits: bool = True
    rate_per_key: int = Field(default=100, ge=0, le=100_000)
    rate_per_address: int = Field(default=20, ge=0, le=100_000)
    phone_invoices_per_minute: int = Field(default=10, ge=0, le=100_000)
    phone_invoices_per_day: int = Field(default=100, ge=0, le=100_000)
    otel_exporter_otlp_endpoint: OrUnset[Url] = None
    otel_exporter_otlp_headers: OrUnset[Annotated[Secret, _holds(trace_headers_of)]] = None
    sentry_dsn: OrUnset[Secret] = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # --- routing
    route_change_needs_two: OrUnset[bool] = None

    # --- secrets at rest
    encryption_keys: Annotated[
        list[Annotated[SecretStr, _holds(check_encryption_key)]],
        NoDecode,
        Field(min_length=1),
        SplitAtCommas,
        BeforeValidator(partial(check_secret, spaces=True)),
    ]

    # --- streams and waiting requests
    waiting_per_key: int = Field(default=200, ge=1, le=10000)
    waiting_in_all: int = Field(default=1000, ge=1, le=10000)

    # --- payments
    duplicate_window_s: int = Field(default=PaymentRules.duplicate_window_s, ge=0, le=86400)
    sending_lease_s: float = Field(default=PaymentRules.sending_lease_s, gt=0, le=LONGEST_LEASE_S)
    error_confirm_s: Seconds = FollowPlan.confirm_s
    late_effect_s: float = Field(default=PaymentRules.late_effect_s, ge=0, le=86400)

    # --- messages to people
    telegram_bot_token: OrUnset[Annotated[Secret, _holds(check_bot_token)]] = None
    telegram_api_url: Annotated[SecureUrl, WithoutSlash] = BOT_API
    smtp_url: OrUnset[Annotated[Secret, _holds(SmtpServer.of)]] = None
    smtp_from: OrUnset[Annotated[str, Plain, AfterValidator(check_sender)]] = None
    console_url: OrUnset[Annotated[Url, WithoutSlash]] = None

    # --- signing in to the console through an OpenID provider
    # With a slash at its end or without: the provider's tokens name it in the same spelling.
    console_oidc_issuer: OrUnset[SecureUrl] = None
    console_oidc_client_id: OrUnset[str] = None
    console_oidc_client_secret: OrUnset[Secret] = None

    # --- webhooks
    webhook_delays_s: Annotated[tuple[Seconds, ...], NoDecode, SplitAtCommas] = DeliveryPlan.delays_s
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
    follow_tails_s: Annotated[tuple[Seconds, ...], NoDecode, SplitAtCommas] = FollowPlan.tails_s
    sweep_every_s: Seconds = 15

    @property
    def provider_is_here(self) -> bool:
        """Whether the provider is the stand-in: only that may be on this machine."""
        return is_loopback(urlsplit(self.production_api_url).hostname or "")

    @model_validator(mode="after")
    def _check_development(self) -> Self:
        """What makes development easy is refused where money moves."""
        if self.debug and not self.provider_is_here:
            raise ValueError(
                "DEBUG works only with the stand-in proxy on this machine, and PRODUCTION_API_URL points elsewhere: "
                "remove DEBUG; DOCS_ENABLED and LOG_LEVEL do what of it is safe"
            )
        if self.dev_no_auth and not self.provider_is_here:
            raise ValueError(
                "DEV_NO_AUTH works only with the stand-in proxy on this machine, and PRODUCTION_API_URL "
                "points elsewhere: remove DEV_NO_AUTH and make keys with 'payment-service keys create'"
            )
        if self.dev_no_auth and not is_loopback(self.host):
            raise ValueError("DEV_NO_AUTH works only when HOST is on this machine: set HOST=127.0.0.1")
        if self.webhooks_stay_here and not self.provider_is_here:
            raise ValueError(
                "WEBHOOKS_STAY_HERE works only with the stand-in proxy on this machine, and PRODUCTION_API_URL points "
                "elsewhere: remove WEBHOOKS_STAY_HERE"
            )
        if "*" in self.cors_origins and not self.debug:
            raise ValueError("CORS_ORIGINS must name the origins: '*' is for DEBUG only")
        return self

    @model_validator(mode="after")
    def _check_times(self) -> Self:
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
        return self

    @model_validator(mode="after")
    def _check_what_goes_together(self) -> Self:
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
        return self
