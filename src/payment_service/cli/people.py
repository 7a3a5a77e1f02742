"""``payment-service people``: who may sign in to the console."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from payment_service.access.models import Person
from payment_service.access.people import People, Role
from payment_service.access.views import PersonView
from payment_service.cli.output import AsJson, fail, plain, show
from payment_service.cli.running import with_database, with_settings
from payment_service.postgres.database import Database
from payment_service.postgres.vault import Vault
from payment_service.postgres.visibility import ALL_SHOPS, Shops
from payment_service.settings import Settings

app = typer.Typer(no_args_is_help=True)
Id = Annotated[int, typer.Argument(help="The id that 'list' shows.")]
OfShops = Annotated[list[int] | None, typer.Option("--shop", help="A shop they see, once per shop.")]
_ROLES = ", ".join(Role)


@app.command()
def add(
    email: Annotated[str, typer.Argument(help="They sign in with it, and it names them in the record.")],
    name: Annotated[str, typer.Option(help="What others call them.", callback=plain)],
    role: Annotated[str, typer.Option(help=f"What they are here for: {_ROLES}.")],
    shop: OfShops = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make an account and print the link that sets its password, once within a day.

    A florist sees the shops that are named; the other roles see all shops when none is named.
    """
    shops = _shops(shop) if shop or role == Role.FLORIST else ALL_SHOPS

    async def work(people: People) -> tuple[Person, str | None]:
        person = await people.add(email, name, role, shops)
        return person, await people.link(person.id)

    person, token = _with_people(work)
    _show(person, as_json=as_json, link=token)


@app.command("list")
def list_people(*, as_json: AsJson = False) -> None:
    """List every account, the disabled ones too."""

    async def work(people: People) -> list[Person]:
        return await people.all()

    lines = [_line(person) for person in _with_people(work)]
    show(lines, as_json=as_json, empty="No accounts yet: payment-service people add")


@app.command()
def change(
    person_id: Id,
    role: Annotated[str | None, typer.Option(help=f"Another role: {_ROLES}.")] = None,
    shop: OfShops = None,
    *,
    all_shops: Annotated[bool, typer.Option("--all-shops", help="They see every shop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give an account another role or other shops. Its sessions end."""
    if (shop and all_shops) or not (role or shop or all_shops):
        fail("Say --role, or --shop for each shop, or --all-shops.")
    shops: Shops | None = _shops(shop) if shop else (ALL_SHOPS if all_shops else None)

    async def work(people: People) -> Person | None:
        return await people.change(person_id, role=role, shops=shops)

    _show(_there(_with_people(work), person_id), as_json=as_json)


@app.command()
def disable(person_id: Id, *, as_json: AsJson = False) -> None:
    """End an account, with its sessions, at once and for good."""

    async def work(people: People) -> Person | None:
        return await people.disable(person_id)

    _show(_there(_with_people(work), person_id), as_json=as_json)


@app.command("sign-out")
def sign_out(person_id: Id, *, as_json: AsJson = False) -> None:
    """End every session of an account, on every device."""

    async def work(people: People) -> Person | None:
        return await people.sign_out(person_id)

    _show(_there(_with_people(work), person_id), as_json=as_json)


@app.command()
def link(person_id: Id) -> None:
    """Print a link that sets the password of an account, once within a day. Earlier links stop working."""

    async def work(people: People) -> str | None:
        return await people.link(person_id)

    token = _with_people(work)
    if token is None:
        fail(f"There is no account {person_id} that may sign in: 'payment-service people list' shows them.")
    typer.echo(_address(token))


def _with_people(action: Callable[[People], Awaitable[Any]]) -> Any:
    async def work(database: Database, _vault: Vault) -> Any:
        return await action(People(database))

    return with_database(work)


def _address(token: str) -> str:
    """The link to give to the person; without CONSOLE_URL only its path is known."""

    async def work(settings: Settings) -> str:
        return f"{settings.console_url or ''}/console/link/{token}"

    return with_settings(work)


def _shops(shop: list[int] | None) -> Shops:
    return frozenset(shop or ())


def _there(person: Person | None, person_id: int) -> Person:
    if person is None:
        fail(f"There is no account {person_id}: 'payment-service people list' shows them.")
    return person


def _line(person: Person) -> dict[str, Any]:
    return PersonView.of(person).model_dump(mode="json")


def _show(person: Person, *, as_json: bool, link: str | None = None) -> None:
    address = _address(link) if link else None
    if as_json:
        show([{**_line(person), **({"link": address} if address else {})}], as_json=True)
        return
    show([_line(person)], as_json=False)
    if address:
        typer.echo(f"Link that sets the password, once within a day: {address}")
