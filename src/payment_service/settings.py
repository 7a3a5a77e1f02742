"""The settings of the service, read from the environment and ``.env`` and checked before it starts.

``Settings`` has what users set as fields (``setting_fields``), and as properties the groups (``kaspi``, ``payments``,
``follow`` ...) that the services are made with. The groups know the defaults.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from payment_service.access.settings import OpenIdSettings
from payment_service.notifications.settings import EmailSettings, TelegramSettings
from payment_service.notifications.smtp import SmtpServer
from payment_service.payments.following import FollowPlan
from payment_service.payments.rules import PaymentRules
from payment_service.providers.kaspi.settings import KaspiSettings
from payment_service.rates import Rate, Rates
from payment_service.setting_fields import SettingFields
from payment_service.setting_texts import UnreadableFileError, encoding_of, trace_headers_of
from payment_service.validation_messages import sentence_of
from payment_service.webhooks.plan import DeliveryPlan

ENV_FILE: Final = Path(".env")
DEVELOPMENT_FILE: Final = Path(".data/settings.json")
"""Where a development server that runs in this folder leaves its settings for the command line."""
RATES_OVER_S: Final = 10
"""Rates per second are averaged over this time: a page that loads may use ten seconds' worth at once."""


class SettingsError(Exception):
    """The settings are missing or wrong; the text says what to change."""


class Settings(SettingFields):
    """What is set, and the groups of it that services are made with."""

    @property
    def session_url(self) -> str:
        """The database's address for everything that needs a session of its own: all but the requests of ``serve``."""
        return (self.database_direct_url or self.database_url).get_secret_value()

    @property
    def kaspi(self) -> KaspiSettings:
        """How to reach the proxy."""
        return KaspiSettings(
            url=self.production_api_url,
            access_token=self.kaspi_access_token.get_secret_value(),
            hint_secret=self.kaspi_webhook_secret.get_secret_value() if self.kaspi_webhook_secret else None,
            deadline_s=self.kaspi_deadline_s,
            connect_timeout_s=self.kaspi_connect_timeout_s,
            connections_ahead=self.kaspi_connections_ahead,
            max_calls=self.kaspi_max_calls,
            max_readings=self.kaspi_max_readings,
            breaker_failures=self.kaspi_breaker_failures,
            breaker_pause_s=self.kaspi_breaker_pause_s,
        )

    @property
    def payments(self) -> PaymentRules:
        """How payments and refunds are sent and settled."""
        return PaymentRules(
            duplicate_window_s=self.duplicate_window_s,
            sending_lease_s=self.sending_lease_s,
            late_effect_s=self.late_effect_s,
            call_deadline_s=self.kaspi_deadline_s,
        )

    @property
    def follow(self) -> FollowPlan:
        """When the status of a payment is read."""
        return FollowPlan(
            first_s=self.follow_first_s,
            fast_s=self.follow_fast_s,
            fast_for_s=self.follow_fast_for_s,
            slow_s=self.follow_slow_s,
            follow_for_s=self.follow_for_s,
            confirm_s=self.error_confirm_s,
            tails_s=self.follow_tails_s,
        )

    @property
    def delivery(self) -> DeliveryPlan:
        """When an endpoint is called again."""
        return DeliveryPlan(
            delays_s=self.webhook_delays_s,
            order_wait_s=self.webhook_order_wait_s,
            disable_after_s=self.webhook_disable_after_s,
            at_once=self.webhook_calls_per_endpoint,
            at_once_in_all=self.webhook_calls,
        )

    @property
    def rates(self) -> Rates:
        """How often callers may call."""
        unlimited = not self.rate_limits
        return Rates(
            requests_of_key=Rate(0 if unlimited else self.rate_per_key * RATES_OVER_S, RATES_OVER_S),
            requests_from_address=Rate(0 if unlimited else self.rate_per_address * RATES_OVER_S, RATES_OVER_S),
            invoices_to_phone=(
                Rate(0 if unlimited else self.phone_invoices_per_minute, 60),
                Rate(0 if unlimited else self.phone_invoices_per_day, 86400),
            ),
        )

    @property
    def telegram(self) -> TelegramSettings | None:
        """The bot that sends messages; none when none is set up."""
        if self.telegram_bot_token is None:
            return None
        return TelegramSettings(self.telegram_bot_token.get_secret_value(), self.telegram_api_url)

    @property
    def email(self) -> EmailSettings | None:
        """How mails are sent; none when that is not set up."""
        if self.smtp_url is None or self.smtp_from is None:
            return None
        return EmailSettings(SmtpServer.of(self.smtp_url.get_secret_value()), self.smtp_from)

    @property
    def trace_headers(self) -> dict[str, str]:
        """What is shown to the collector of traces."""
        given = self.otel_exporter_otlp_headers
        return trace_headers_of(given.get_secret_value()) if given else {}

    @property
    def openid(self) -> OpenIdSettings | None:
        """The provider through which people may sign in to the console; none when none is set up."""
        if self.console_oidc_issuer is None or self.console_oidc_client_id is None:
            return None
        return OpenIdSettings(
            issuer=self.console_oidc_issuer,
            client_id=self.console_oidc_client_id,
            client_secret=self.console_oidc_client_secret.get_secret_value() if self.console_oidc_client_secret else "",
            redirect_uri=f"{self.console_url}/console/openid/callback",
        )

    @property
    def serves_docs(self) -> bool:
        """Whether ``/docs`` and ``/openapi.json`` exist: as set, else in development only."""
        return self.debug if self.docs_enabled is None else self.docs_enabled


def load() -> Settings:
    """Read the settings from the environment and ``.env``.

    Raises:
        SettingsError: one line per setting that is missing or wrong.
    """
    try:
        return Settings(_env_file_encoding=encoding_of(ENV_FILE))
    except UnreadableFileError as error:
        raise SettingsError(str(error)) from None
    except ValidationError as error:
        lines = [*dict.fromkeys(_lines(error)), "See .env.example for what each setting means."]
        raise SettingsError("\n".join(lines)) from None


def load_of_development_server() -> Settings | None:
    """The settings of the development server that runs in this folder; none when anything else is set.

    One of the settings that every service needs, in the environment or in a ``.env``, means that another service is
    meant, and then what is missing is an error. The settings of a development server are refused unless its provider is
    on this machine.

    Raises:
        SettingsError: when they cannot be read.
    """
    needed = {name for name, field in Settings.model_fields.items() if field.is_required()}
    if ENV_FILE.exists() or needed & {name.lower() for name in os.environ} or not DEVELOPMENT_FILE.exists():
        return None
    try:
        settings = Settings(_env_file=None, **json.loads(DEVELOPMENT_FILE.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        settings = None
    if settings is None or not settings.dev_no_auth:
        raise SettingsError(f"{DEVELOPMENT_FILE} holds no settings of a development server: start 'make run' again.")
    return settings


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"][:1]).upper()
        is_set = problem["type"] != "missing" and problem.get("ctx", {}).get("min_length") != 1
        yield f"{name} {sentence_of(problem) if is_set else 'is not set'}".strip()
