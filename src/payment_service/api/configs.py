"""Routing over HTTP: what the Bitrix client reads, and what the admin page changes."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import Field, StringConstraints, TypeAdapter

from payment_service.access.service import Caller, Scope
from payment_service.api import problems
from payment_service.api.dependencies import Admin, ConfigReader, InServices, PresentedKey
from payment_service.api.fields import Bin, Body, Changes, DeviceTokenText, Moment, ShopId, Text
from payment_service.api.responses import json_response
from payment_service.api.strict import StrictRoute
from payment_service.errors import (
    BinOfSeveralShops,
    DeviceTokenUnreadable,
    InvalidInput,
    RouteChangeNeedsTwo,
    ShopAlreadyConfigured,
    ShopInactive,
    ShopNotConfigured,
    TokenOfAnotherBin,
)
from payment_service.providers.registry import DEFAULT
from payment_service.routing.models import PaymentConfig
from payment_service.routing.service import ShopConfig
from payment_service.routing.tokens import Unreadable
from payment_service.routing.views import ConfigAnswer, ConfigChangeAnswer

router = APIRouter(route_class=StrictRoute)

ProviderText = Annotated[str, Field(description="The payment provider.", examples=[DEFAULT])]
Name = Annotated[Text, StringConstraints(max_length=200)]
City = Annotated[Text, StringConstraints(max_length=100)]
Description = Annotated[Text, StringConstraints(max_length=500)]
Reason = Annotated[Text, StringConstraints(max_length=500)]
VALID_FOR_S = 3600
"""How long a client may use a configuration that it has read."""
SIGNATURE_HEADERS = ("X-Config-Valid-Until", "X-Config-Signature")
PathShopId = Annotated[ShopId, Path()]


class NewConfig(Body):
    """A shop's first routing."""

    shop_id: ShopId
    organization_bin: Bin
    device_token: DeviceTokenText | None = None
    is_active: bool = True
    provider: ProviderText = DEFAULT
    name: Name = ""
    city: City = ""
    description: Description = ""
    reason: Reason = Field(default="", description="Why, for the history.")


class SignedConfig(ConfigAnswer):
    """The routing of one shop, signed: a client that keeps a copy can check that it was not changed.

    The signature is HMAC-SHA256 (hex) with the API key of the request over these lines, joined by a line feed:
    ``payment-config``, shop_id, organization_bin, device_token (empty when there is none), ``1`` or ``0`` for
    is_active, provider, valid_until.
    """

    valid_until: str = Field(
        description="The routing may be used without asking again until this time (UTC).",
        examples=["2026-11-21T12:00:00Z"],
    )
    signature: str | None = Field(description="Null when no key was sent, on a development server only.")


_SHOWN_LIST: Final = TypeAdapter(list[ConfigAnswer])
_SIGNED_LIST: Final = TypeAdapter(list[SignedConfig])
_AS_SHOWN: Any = Field(default=None, description="Accepted only when it equals the current value.")
_SHOWN = ("version", "created_at", "updated_at")


class ConfigChange(Changes):
    """The fields to change.

    A field that is not given stays as it is. A complete answer may be sent back with changes.
    """

    null_says = frozenset({"device_token"})

    organization_bin: Bin | None = None
    device_token: str | None = Field(
        default=None,
        max_length=50,
        description="A new token; null removes it; the masked text that was shown leaves it as it is.",
    )
    is_active: bool | None = None
    provider: ProviderText | None = None
    name: Name | None = None
    city: City | None = None
    description: Description | None = None
    reason: Reason = Field(default="", description="Why, for the history.")
    id: ShopId | None = _AS_SHOWN
    shop_id: ShopId | None = _AS_SHOWN
    version: int | None = _AS_SHOWN
    created_at: Moment | None = _AS_SHOWN
    updated_at: Moment | None = _AS_SHOWN
    warnings: list[str] | None = _AS_SHOWN


@router.get(
    "/api/payment/config",
    response_model=SignedConfig | list[SignedConfig],
    tags=["configuration"],
    summary="The routing of a shop, or of all active ones",
    responses={
        304: {
            "description": "Unchanged since this ETag. For one shop the headers X-Config-Valid-Until and "
            "X-Config-Signature renew the validity.",
        },
        **problems.declared(ShopNotConfigured, ShopInactive, DeviceTokenUnreadable),
    },
)
async def config(
    services: InServices,
    caller: ConfigReader,
    key: PresentedKey,
    shop_id: Annotated[ShopId | None, Query()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Returns the routing of one shop, or of all active shops but those whose device token cannot be decrypted."""
    headers = {"Cache-Control": f"private, max-age={VALID_FOR_S}", "Vary": "Authorization, X-API-Key"}
    if shop_id is None:
        all_active = await services.routing.configs(caller, active_only=True)
        shown = [_shown(one, caller) for one in all_active if not isinstance(one.device_token, Unreadable)]
        headers["ETag"] = _etag(shown)
        body = _SIGNED_LIST.dump_json([_signed(one, key) for one in shown])
    else:
        found = await services.routing.config_of(caller, shop_id)
        found.usable_token()
        one, headers["ETag"] = _shown_with_etag(found, caller)
        signed = _signed(one, key)
        headers |= dict(zip(SIGNATURE_HEADERS, (signed.valid_until, signed.signature or ""), strict=True))
        body = signed.__pydantic_serializer__.to_json(signed)
    if if_none_match is not None and _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/admin/configs", tags=["admin"], summary="All routing", responses=problems.declared())
async def all_configs(services: InServices, caller: Admin) -> list[ConfigAnswer]:
    """Returns the routing of all shops, including inactive ones."""
    return [_shown(one, caller) for one in await services.routing.configs(caller)]


@router.post(
    "/admin/configs",
    status_code=201,
    response_model=ConfigAnswer,
    tags=["admin"],
    summary="Add a shop",
    responses=problems.declared(ShopAlreadyConfigured, ShopNotConfigured, TokenOfAnotherBin),
)
async def add(body: NewConfig, services: InServices, caller: Admin) -> Response:
    """Adds a shop. Its payments go to this BIN from now on."""
    fields = body.model_dump(exclude={"shop_id", "reason"})
    made = await services.routing.create(caller, body.shop_id, fields, reason=body.reason)
    return json_response(_shown(made, caller), 201, headers={"Location": f"/admin/configs/{body.shop_id}"})


@router.get(
    "/admin/configs/by-bin/{bin}",
    tags=["admin"],
    summary="The shop of a BIN",
    responses=problems.declared(ShopNotConfigured, ShopInactive, BinOfSeveralShops),
)
async def by_bin(bin: Annotated[Bin, Path()], services: InServices, caller: Admin) -> ConfigAnswer:
    """Returns the one active shop of this BIN.

    Returns 409 with the ids when several active shops share it, and 403 when only inactive shops have it.
    """
    return _shown(await services.routing.config_of_bin(caller, bin), caller)


@router.get(
    "/admin/configs/{shop_id}",
    tags=["admin"],
    summary="One shop's routing",
    responses=problems.declared(ShopNotConfigured),
)
async def one_config(shop_id: PathShopId, services: InServices, caller: Admin) -> ConfigAnswer:
    """Returns the routing of one shop, active or not."""
    return _shown(await services.routing.config_of(caller, shop_id), caller)


@router.put(
    "/admin/configs/{shop_id}",
    tags=["admin"],
    summary="Change a shop's routing",
    responses=problems.declared(ShopNotConfigured, RouteChangeNeedsTwo, TokenOfAnotherBin),
)
async def change(shop_id: PathShopId, body: ConfigChange, services: InServices, caller: Admin) -> ConfigAnswer:
    """Changes the given fields. Earlier payments keep their route.

    Returns 409 for another BIN, device token or provider where `ROUTE_CHANGE_NEEDS_TWO` is set: people make that change
    in the console.
    """
    caller.require_shop(shop_id)
    fields = body.given()
    fields.pop("reason", None)
    for name in ("id", "shop_id"):
        if fields.pop(name, shop_id) != shop_id:
            raise InvalidInput(name, f"is {shop_id} and cannot be changed")
    warnings = fields.pop("warnings", None)
    if warnings is not None and warnings != _shown(await services.routing.config_of(caller, shop_id), caller).warnings:
        raise InvalidInput("warnings", "have changed: leave them out")
    seen = {name: fields.pop(name) for name in _SHOWN if name in fields}
    return _shown(await services.routing.update(caller, shop_id, fields, seen=seen, reason=body.reason), caller)


@router.delete(
    "/admin/configs/{shop_id}",
    tags=["admin"],
    summary="Switch a shop off",
    responses=problems.declared(ShopNotConfigured),
)
async def deactivate(shop_id: PathShopId, services: InServices, caller: Admin) -> ConfigAnswer:
    """Deactivates the shop. Nothing is deleted; earlier payments can still be refunded; PUT activates it again."""
    return _shown(await services.routing.update(caller, shop_id, {"is_active": False}, reason="deactivated"), caller)


@router.get(
    "/admin/configs/{shop_id}/history",
    tags=["admin"],
    summary="Every change of a shop's routing",
    responses=problems.declared(ShopNotConfigured),
)
async def history(shop_id: PathShopId, services: InServices, caller: Admin) -> list[ConfigChangeAnswer]:
    """Lists every change with its author, time, reason, old and new values; newest first."""
    return [ConfigChangeAnswer.of(one) for one in await services.routing.history(caller, shop_id)]


def _shown(config: ShopConfig, caller: Caller) -> ConfigAnswer:
    return ConfigAnswer.of(config, reveal=Scope.SECRETS_READ in caller.scopes)


_VIEWS: Final[WeakKeyDictionary[PaymentConfig, dict[bool, tuple[ConfigAnswer, str]]]] = WeakKeyDictionary()
"""The view of a configuration with its ETag, by whether secrets are shown, as long as the row is cached."""


def _shown_with_etag(config: ShopConfig, caller: Caller) -> tuple[ConfigAnswer, str]:
    views = _VIEWS.setdefault(config.row, {})
    reveal = Scope.SECRETS_READ in caller.scopes
    if reveal not in views:
        shown = _shown(config, caller)
        views[reveal] = shown, _etag([shown])
    return views[reveal]


def _etag(shown: list[ConfigAnswer]) -> str:
    """The ETag of the views, without their validity."""
    return f'"{hashlib.sha256(_SHOWN_LIST.dump_json(shown)).hexdigest()[:32]}"'


def _signed(shown: ConfigAnswer, key: str | None) -> SignedConfig:
    valid_until = f"{datetime.now(UTC) + timedelta(seconds=VALID_FOR_S):%Y-%m-%dT%H:%M:%SZ}"
    lines = (
        "payment-config",
        str(shown.shop_id),
        shown.organization_bin,
        shown.device_token or "",
        "1" if shown.is_active else "0",
        shown.provider,
        valid_until,
    )
    signature = hmac.digest(key.encode(), "\n".join(lines).encode(), "sha256").hex() if key else None
    return SignedConfig(**dict(shown), valid_until=valid_until, signature=signature)


def _matches(if_none_match: str, etag: str) -> bool:
    candidates = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in candidates or etag in candidates
