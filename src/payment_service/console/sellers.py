"""Sellers: where the money of each shop goes, and its recent activity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from starlette.responses import Response

from payment_service.access.people import Right
from payment_service.almaty import ALMATY, midnight, today
from payment_service.console.lists import AT_ONCE, cursor_of
from payment_service.console.payment_status import PaymentStatus, Tone, payment_status
from payment_service.console.web import HOME, PageContext, Refused, number_in_path, number_of
from payment_service.languages import mark
from payment_service.payments import queries
from payment_service.payments.lifecycle import Failure
from payment_service.payments.models import Payment
from payment_service.payments.queries import PaymentFilter
from payment_service.payments.shops import NEWEST, UNDER_WAY, ShopActivity, activity_of
from payment_service.payments.views import PaymentLine
from payment_service.providers.interface import Remedy
from payment_service.providers.registry import remedy_of
from payment_service.routing.changes import Proposal
from payment_service.routing.models import PaymentConfig
from payment_service.routing.service import ShopConfig
from payment_service.routing.tokens import Unreadable

ON_A_PAGE: Final = 20
SELLERS: Final = f"{HOME}/sellers"
CHANGES_SHOWN: Final = 20
FAILURE_SHOWN_FOR: Final = timedelta(days=7)
"""An older failure says little about today."""
_REMEDIES: Final[Mapping[Remedy, str]] = {
    Remedy.CERTIFICATE: mark("The proxy's certificate at Kaspi is missing or wrong: tell the owner of the proxy."),
    Remedy.DEVICE: mark(
        "Kaspi does not take this device token. The seller registers the device anew, and an administrator sets its "
        "token here."
    ),
    Remedy.POINT_OF_SALE: mark("The seller has to make a point of sale in the Kaspi Pay app, or to switch it on."),
    Remedy.ROUTE: mark("BIN and device token are not of one seller: check both with the seller."),
    Remedy.AMOUNT: mark("Kaspi does not take this sum: try another one."),
    Remedy.BUYER: mark("This buyer has no way to pay in Kaspi. With the seller nothing is wrong."),
}
_NOT_SENT: Final = mark("Kaspi's proxy could not be reached. If it happens again, tell an engineer.")
_REFUSED: Final = mark(
    "The proxy refuses this service: its access token, or the list of allowed addresses. Tell an engineer."
)
_NOBODY_KNOWS: Final = mark("Nobody here knows this answer. Ask Kaspi's support, with the words above.")


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """The last payment of a shop that failed before it reached the buyer, and what helps."""

    payment: PaymentLine
    remedy: str


@dataclass(frozen=True, slots=True)
class Seller:
    """One seller as the pages show it."""

    row: PaymentConfig
    token_since: datetime | None
    is_token_readable: bool
    activity: ShopActivity
    last: PaymentLine | None
    last_status: PaymentStatus | None
    failure: RecentFailure | None
    same_bin: Sequence[PaymentConfig]
    """Other shops with the same BIN."""
    waiting: Proposal | None

    @property
    def title(self) -> str:
        """The name of the shop; empty when it has none."""
        return self.row.name

    @property
    def status(self) -> tuple[Tone, str]:
        """Whether it takes payments, in words."""
        if not self.row.is_active:
            return "quiet", mark("switched off")
        if not self.is_token_readable:
            return "bad", mark("the device token cannot be decrypted")
        if self.failure is not None and self.last is not None and self.failure.payment.id == self.last.id:
            return "bad", mark("the last one failed")
        if self.token_since is None:
            return "warn", mark("no device token")
        return "good", mark("takes payments")

    @property
    def share(self) -> int | None:
        """Of today's payments that ended, how many are paid, in percent."""
        return None if not self.activity.ended else round(100 * self.activity.paid / self.activity.ended)


async def all_sellers(context: PageContext) -> Response:
    """Every seller that the person sees."""
    configs = await context.services.routing.configs(context.me.caller)
    after = number_of(context.query("after") or "0")
    if after is None:
        raise Refused(404)
    later = [config for config in configs if config.row.shop_id > after]
    found = await sellers_of(context, later[:ON_A_PAGE], configs)
    more = len(later) > ON_A_PAGE
    return context.page("sellers.html", found=found, next_after=found[-1].row.shop_id if more else None, limits=LIMITS)


async def one(context: PageContext) -> Response:
    """One seller: its activity, a waiting change, its newest payments, and the history of its route."""
    services, me = context.services, context.me
    seller = await read(context)
    shop_id, cursor = seller.row.shop_id, cursor_of(context)
    async with services.database.reading() as session:
        wanted = PaymentFilter(shops=me.caller.shops, shop_id=shop_id)
        page = await queries.search(session, wanted, limit=AT_ONCE, cursor=cursor)
    lines = [PaymentLine.of(payment) for payment in page.rows]
    history = await services.routing.history(me.caller, shop_id)
    proposals = await services.route_changes.of_shop(me.caller, shop_id)
    return context.page(
        "seller.html",
        seller=seller,
        limits=LIMITS,
        lines=[(line, payment_status(line)) for line in lines],
        names={shop_id: seller.title} if seller.title else {},
        next_cursor=page.next_cursor,
        is_first=cursor is None,
        history=history[:CHANGES_SHOWN],
        has_more_history=len(history) > CHANGES_SHOWN,
        proposed_by={one.change.on_version + 1: one.proposed_by for one in proposals if one.change.state == "applied"},
        may_route=me.may(Right.ROUTE),
        may_test=me.may(Right.TEST) and seller.row.is_active,
        notice=context.query("done"),
    )


LIMITS: Final = (NEWEST, UNDER_WAY)


async def read(context: PageContext) -> Seller:
    """The seller of the address.

    Raises:
        ShopNotConfigured: when there is none that the person may see.
    """
    shop_id = number_in_path(context, "shop_id")
    config = await context.services.routing.config_of(context.me.caller, shop_id)
    of_bin = await context.services.routing.configs(context.me.caller, organization_bin=config.row.organization_bin)
    return (await sellers_of(context, [config], of_bin))[0]


async def sellers_of(context: PageContext, shown: Sequence[ShopConfig], known: Sequence[ShopConfig]) -> list[Seller]:
    """These shops with their recent activity. ``known`` are those that may share a BIN with one of them."""
    shop_ids = [config.row.shop_id for config in shown]
    activity = await activity_of(context.services.database, context.me.caller.shops, shop_ids, since=midnight(today()))
    waiting = await context.services.route_changes.waiting(context.me.caller)
    return [_seller(config, activity[config.row.shop_id], known, waiting) for config in shown]


def _seller(
    config: ShopConfig, activity: ShopActivity, known: Sequence[ShopConfig], waiting: Mapping[int, Proposal]
) -> Seller:
    row = config.row
    last = None if activity.last is None else PaymentLine.of(activity.last)
    return Seller(
        row=row,
        token_since=None if row.token is None else row.token.created_at,
        is_token_readable=not isinstance(config.device_token, Unreadable),
        activity=activity,
        last=last,
        last_status=None if last is None else payment_status(last),
        failure=_recent_failure(activity.last_failure),
        same_bin=[
            other.row
            for other in known
            if other.row.organization_bin == row.organization_bin and other.row.shop_id != row.shop_id
        ],
        waiting=waiting.get(row.shop_id),
    )


def _recent_failure(payment: Payment | None) -> RecentFailure | None:
    if payment is None or datetime.now(ALMATY) - payment.created_at > FAILURE_SHOWN_FOR:
        return None
    match payment.failure:
        case Failure.NOT_SENT:
            remedy = _NOT_SENT
        case Failure.REFUSED:
            remedy = _REFUSED
        case _:
            known = remedy_of(payment.provider, payment.error_code)
            remedy = _NOBODY_KNOWS if known is None else _REMEDIES[known]
    return RecentFailure(PaymentLine.of(payment), remedy)
