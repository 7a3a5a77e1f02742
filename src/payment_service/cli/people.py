"""``payment-service people``: who may sign in to the console."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from payment_service.access.models import Person
from payment_service.access.people import Role
from payment_service.access.views import PersonView
from payment_service.cli.output import AsJson, completing, fail, plain, show
from payment_service.cli.running import with_services
from payment_service.languages import Language
from payment_service.money import Money
from payment_service.postgres.visibility import ALL_SHOPS, Shops

if TYPE_CHECKING:
    from payment_service.notifications.links import MadeLink
    from payment_service.services import Services

app = typer.Typer(no_args_is_help=True)
Id = Annotated[int, typer.Argument(help="The id that 'list' shows.")]
OfShops = Annotated[list[int] | None, typer.Option("--shop", help="A shop they see, once per shop.")]
Send = Annotated[bool, typer.Option("--send", help="Send the link to their e-mail address instead of printing it.")]
OfLanguage = Annotated[Language, typer.Option("--language", help="Of the e-mail.", autocompletion=completing(Language))]
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
    name: Annotated[str, typer.Option(help="Their name.", callback=plain)],
    role: Annotated[str, typer.Option(help=f"The role: {_ROLES}.", autocompletion=completing(Role))],
    shop: OfShops = None,
    refund_limit: Limit = None,
    language: OfLanguage = Language.RU,
    *,
    send: Send = False,
    as_json: AsJson = False,
) -> None:
    """Make an account and print or send the link that sets its password, once within a day.

    A florist sees the shops that are named; the other roles see all shops when none is named.
    """
    shops: Shops = frozenset(shop or ()) if shop or role == Role.FLORIST else ALL_SHOPS

    async def work(services: "Services") -> tuple[Person, "MadeLink | None"]:
        _require_mail(services, send=send)
        await services.routing.require_all(shop or ())
        person = await services.people.add(email, name, role, shops, refund_limit=refund_limit)
        return person, await _link(services, person, language if send else None)

    person, made = with_services(work)
    address = made.address if made is not None and not made.is_sent else None
    if as_json:
        show([{**_line(person), "link": address, "is_sent": address is None}], as_json=True)
    else:
        show([_line(person)], as_json=False)
    if not as_json and address is not None:
        typer.echo(f"Link that sets the password, once within a day: {address}")
    _print_sending(made, person)


@app.command("list")
def list_people(*, as_json: AsJson = False) -> None:
    """List every account, the disabled ones too."""
    lines = [_line(person) for person in with_services(lambda services: services.people.all())]
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
        await services.routing.require_all(shop or ())
        return await services.people.change(person_id, role=role, shops=shops, refund_limit=refund_limit)

    _show(with_services(work), person_id, as_json=as_json)


@app.command()
def disable(person_id: Id, *, as_json: AsJson = False) -> None:
    """End an account, with its sessions, at once and for ever."""
    _show(with_services(lambda services: services.people.disable(person_id)), person_id, as_json=as_json)


@app.command("sign-out")
def sign_out(person_id: Id, *, as_json: AsJson = False) -> None:
    """End every session of an account, on every device."""
    _show(with_services(lambda services: services.people.sign_out(person_id)), person_id, as_json=as_json)


@app.command()
def link(person_id: Id, language: OfLanguage = Language.RU, *, send: Send = False) -> None:
    """Print or send a link that sets the password of an account, once within a day. Earlier links stop working."""

    async def work(services: "Services") -> "tuple[Person, MadeLink] | None":
        _require_mail(services, send=send)
        person = next((one for one in await services.people.all() if one.id == person_id), None)
        made = person and await _link(services, person, language if send else None)
        return (person, made) if person and made else None

    found = with_services(work)
    if found is None:
        fail(f"There is no account {person_id} that may sign in: 'payment-service people list' shows them.")
    person, made = found
    if not made.is_sent:
        typer.echo(made.address)
    _print_sending(made, person)


def _require_mail(services: "Services", *, send: bool) -> None:
    if send and not services.links.can_be_sent:
        fail("Nothing can be sent: set SMTP_URL, SMTP_FROM and CONSOLE_URL, or leave --send out. Nothing was changed.")


async def _link(services: "Services", person: Person, language: Language | None) -> "MadeLink | None":
    """A link: sent in that language, or to be printed. Without CONSOLE_URL only its path is known."""
    return await (services.links.make(person.id) if language is None else services.links.send(person, language))


def _print_sending(made: "MadeLink | None", person: Person) -> None:
    """Print whether a link was sent. One that was not, or may not have been, was printed before, and is an error."""
    if made is not None and made.is_sent:
        typer.echo(f"Sent to {person.email}.", err=True)
    if made is not None and made.problem is not None:
        fail(f"The link could not be sent, or it is not known whether it was ({made.problem}): hand it over yourself.")


def _line(person: Person) -> dict[str, Any]:
    return PersonView.of(person).model_dump(mode="json")


def _show(person: Person | None, person_id: int, *, as_json: bool) -> None:
    if person is None:
        fail(f"There is no account {person_id}: 'payment-service people list' shows them.")
    show([_line(person)], as_json=as_json)
