"""``payment-service people``: who may sign in to the console."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from payment_service.access.models import Person
from payment_service.access.people import Role
from payment_service.access.views import PersonView
from payment_service.cli.output import AsJson, completing, fail, plain, show
from payment_service.cli.running import with_services
from payment_service.money import Money
from payment_service.postgres.visibility import ALL_SHOPS, Shops

if TYPE_CHECKING:
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)
Id = Annotated[int, typer.Argument(help="The id that 'list' shows.")]
OfShops = Annotated[list[int] | None, typer.Option("--shop", help="A shop they see, once per shop.")]
_ROLES = ", ".join(Role)


def _tenge(text: str) -> Money:
    try:
        return Money.from_tenge(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Limit = Annotated[
    Money | None,
    typer.Option(
        "--refund-limit",
        metavar="TENGE",
        parser=_tenge,
        help="The most that they may pay back of one payment, with what was paid back before.",
    ),
]


@app.command()
def add(
    email: Annotated[str, typer.Argument(help="They sign in with it, and it names them in the record.")],
    name: Annotated[str, typer.Option(help="What others call them.", callback=plain)],
    role: Annotated[str, typer.Option(help=f"What they are here for: {_ROLES}.", autocompletion=completing(Role))],
    shop: OfShops = None,
    refund_limit: Limit = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make an account and print the link that sets its password, once within a day.

    A florist sees the shops that are named; the other roles see all shops when none is named.
    """
    shops: Shops = frozenset(shop or ()) if shop or role == Role.FLORIST else ALL_SHOPS

    async def work(services: "Services") -> tuple[Person, str | None]:
        person = await services.people.add(email, name, role, shops, refund_limit=refund_limit)
        return person, await _link(services, person.id)

    person, link = with_services(work)
    if as_json:
        show([{**_line(person), "link": link}], as_json=True)
        return
    show([_line(person)], as_json=False)
    typer.echo(f"Link that sets the password, once within a day: {link}")


@app.command("list")
def list_people(*, as_json: AsJson = False) -> None:
    """List every account, the disabled ones too."""

    async def work(services: "Services") -> list[Person]:
        return await services.people.all()

    lines = [_line(person) for person in with_services(work)]
    show(lines, as_json=as_json, empty="No accounts yet: payment-service people add")


@app.command()
def change(
    person_id: Id,
    role: Annotated[str | None, typer.Option(help=f"Another role: {_ROLES}.", autocompletion=completing(Role))] = None,
    shop: OfShops = None,
    refund_limit: Limit = None,
    *,
    all_shops: Annotated[bool, typer.Option("--all-shops", help="They see every shop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give an account another role, other shops or another limit. Its sessions end."""
    if (shop and all_shops) or not (role or shop or all_shops or refund_limit):
        fail("Say --role, --refund-limit, or --shop for each shop, or --all-shops.")
    shops: Shops | None = frozenset(shop) if shop else (ALL_SHOPS if all_shops else None)

    async def work(services: "Services") -> Person | None:
        return await services.people.change(person_id, role=role, shops=shops, refund_limit=refund_limit)

    _show(with_services(work), person_id, as_json=as_json)


@app.command()
def disable(person_id: Id, *, as_json: AsJson = False) -> None:
    """End an account, with its sessions, at once and for good."""

    async def work(services: "Services") -> Person | None:
        return await services.people.disable(person_id)

    _show(with_services(work), person_id, as_json=as_json)


@app.command("sign-out")
def sign_out(person_id: Id, *, as_json: AsJson = False) -> None:
    """End every session of an account, on every device."""

    async def work(services: "Services") -> Person | None:
        return await services.people.sign_out(person_id)

    _show(with_services(work), person_id, as_json=as_json)


@app.command()
def link(person_id: Id) -> None:
    """Print a link that sets the password of an account, once within a day. Earlier links stop working."""

    async def work(services: "Services") -> str | None:
        return await _link(services, person_id)

    address = with_services(work)
    if address is None:
        fail(f"There is no account {person_id} that may sign in: 'payment-service people list' shows them.")
    typer.echo(address)


async def _link(services: "Services", person_id: int) -> str | None:
    """The link to give to the person; without CONSOLE_URL only its path is known."""
    token = await services.people.link(person_id)
    return None if token is None else f"{services.settings.console_url or ''}/console/link/{token}"


def _line(person: Person) -> dict[str, Any]:
    return PersonView.of(person).model_dump(mode="json")


def _show(person: Person | None, person_id: int, *, as_json: bool) -> None:
    if person is None:
        fail(f"There is no account {person_id}: 'payment-service people list' shows them.")
    show([_line(person)], as_json=as_json)
