"""Fields that several forms share: the chosen shops, and the id that makes a form count once."""

from uuid import UUID

from payment_service.console.web import PageContext, number_of, uuid_of
from payment_service.errors import InvalidInput
from payment_service.postgres.visibility import ALL_SHOPS, Shops
from payment_service.reconciliation.turnover import names_of_shops


def form_id(context: PageContext) -> UUID:
    """The id of a form: made with its page, and the same however often it is sent.

    Raises:
        Refused: for an id that was not made here.
    """
    return uuid_of(context.form_value("once"), status=400)


def shop_numbers(context: PageContext) -> list[int]:
    """The shops of the form: each has a field of its own, named by its number."""
    numbers = (number_of(name.removeprefix("shop-")) for name in context.form if name.startswith("shop-"))
    return [number for number in numbers if number is not None]


async def chosen_shops(context: PageContext) -> Shops:
    """The chosen shops; all of them only when that was chosen.

    Raises:
        InvalidInput: when neither was chosen, or both, or a shop does not exist.
    """
    chosen = frozenset(shop_numbers(context))
    match context.form_value("reach"):
        case "all" if not chosen:
            return ALL_SHOPS
        case "some" if chosen and chosen <= (await names_of_shops(context.services.database)).keys():
            return chosen
    raise InvalidInput("chosen_shops", "are all or some")
