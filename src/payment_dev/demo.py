"""``python -m payment_dev demo``: the main job, played before one's eyes against the running development server.

Seven sellers are paid by phone and one of them by link; one buyer declines, one is refunded, one reply is lost. At the
end the stand-in's own ledger says where the money went. The demo talks HTTP only, as a shop would, and presses the
buyers' buttons at the stand-in; it knows nothing of the service's inside.
"""

import hashlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from payment_service.programs import StartError
from payment_service.routing import importing

PLAY_FOR_S = 50.0
"""The whole play ends by then, whatever the servers do; it needs some 32 s."""
CALL_S = 10.0
"""The service answers a money call within 9 s."""
PAUSE_S = 0.5

BUYER = "77000000100"
LOSES_THE_REPLY = "77000009027"
"""The stand-in applies the payment and drops the connection (docs/sandbox.md)."""
AMOUNTS = ("12500", "8900.50", "15000", "23750", "9990", "31000", "18450.75")

_COLOURS = {"paid": "green", "pending": "yellow", "failed": "red", "cancelled": "red", "unknown": "magenta"}


@dataclass(slots=True)
class Scene:
    """One payment of the play: what is asked for, and what is known of it so far."""

    shop: dict[str, Any]
    amount: Decimal
    phone: str | None = BUYER
    order_id: str = ""
    id: str | None = None
    external_id: str | None = None
    state: str = "…"
    status: str | None = None
    detail: str = ""
    refunds: list[Decimal] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Whether nothing more will be learned of it."""
        return self.state not in {"…", "pending"}

    def take(self, answer: dict[str, Any]) -> bool:
        """Take over what the service says; returns whether it changed."""
        before = (self.state, self.status)
        for name in ("id", "external_id", "status", "detail"):
            setattr(self, name, answer.get(name) or getattr(self, name))
        self.state = answer.get("state", self.state)
        return (self.state, self.status) != before


class _Wires:
    """Calls to the service and to the stand-in, all of them within one deadline."""

    def __init__(self, url: str, sandbox_url: str) -> None:
        self.url, self.sandbox_url = url.rstrip("/"), sandbox_url.rstrip("/")
        self._ends_at = time.monotonic() + PLAY_FOR_S
        self._http = httpx.Client(trust_env=False)

    @property
    def seconds_left(self) -> float:
        return self._ends_at - time.monotonic()

    def service(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._call(method, self.url + path, "service", **more)

    def stand_in(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._call(method, self.sandbox_url + path, "stand-in proxy", **more)

    def _call(self, method: str, address: str, what: str, **more: Any) -> httpx.Response:
        timeout = min(CALL_S, self.seconds_left)
        if timeout <= 0:
            raise StartError(f"The demo is not over after {PLAY_FOR_S:.0f} s and stops: look at the server's log.")
        try:
            return self._http.request(method, address, timeout=timeout, **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StartError(
                f"The {what} does not answer at {address.split('/', 3)[2]} ({type(error).__name__}): "
                "start it with 'make run' and play the demo in a second terminal."
            ) from error

    def close(self) -> None:
        self._http.close()


def play(url: str, sandbox_url: str) -> None:
    """Play the demo. Exit code 1 when the ledger does not show every tenge at its own seller.

    Raises:
        StartError: a sentence, when the development server is not there.
    """
    wires = _Wires(url, sandbox_url)
    try:
        play = _Play(wires, _shops(wires))
        play.perform()
        if not play.judge():
            raise typer.Exit(1)
    finally:
        wires.close()


def _shops(wires: _Wires) -> list[dict[str, Any]]:
    """The seven sellers with their routes, as the server has them now; device tokens in the clear."""
    if not wires.stand_in("GET", "/_about").is_success:
        raise StartError(f"What answers at {wires.sandbox_url} is not the stand-in proxy: give its --sandbox-url.")
    answer = wires.service("GET", "/admin/configs")
    try:
        listed = answer.raise_for_status().json()
        there = {shop["shop_id"]: shop for shop in listed if shop["is_active"] and shop["device_token"]}
    except (httpx.HTTPStatusError, ValueError, TypeError, KeyError) as error:
        raise StartError(
            f"What answers at {wires.url} is not a development server (HTTP {answer.status_code}): "
            "the demo makes payments, and plays only where 'make run' runs."
        ) from error
    wanted = [row.shop_id for row in importing.parse(importing.packaged_shops())]
    if missing := [str(shop_id) for shop_id in wanted if shop_id not in there]:
        raise StartError(
            f"Shop {', '.join(missing)} is missing, inactive or without a device token on the development server: "
            "the demo needs all seven."
        )
    return [there[shop_id] for shop_id in wanted]


@dataclass
class _Play:
    wires: _Wires
    shops: Sequence[dict[str, Any]]
    run: str = field(default_factory=lambda: secrets.token_hex(3))
    console: Console = field(default_factory=lambda: Console(highlight=False, width=None if _watched() else 100))
    lines: list[str] = field(default_factory=list)
    live: Live | None = None

    def __post_init__(self) -> None:
        paid = [Scene(shop, Decimal(amount)) for shop, amount in zip(self.shops, AMOUNTS, strict=True)]
        by_link = Scene(self.shops[1], Decimal(4200), phone=None)
        self.refunded, self.slow = paid[0], paid[-1]
        self.declined = Scene(self.shops[3], Decimal(6600))
        self.lost = Scene(self.shops[4], Decimal(7700), phone=LOSES_THE_REPLY)
        # The decline comes first: an Error is believed only when it is read again 30 s later.
        self.scenes = [self.declined, *paid, by_link, self.lost]
        for number, scene in enumerate(self.scenes, 1):
            scene.order_id = f"demo-{self.run}-{number}"

    @property
    def _message(self) -> str:
        return f"Demo {self.run}"

    # --- acting

    def perform(self) -> None:
        """Everything that happens until the ledger is opened."""
        self.say(f"Seven sellers, one marketplace. Each payment must land on its own seller's account. Run {self.run}.")
        if not _watched():
            self._act()
            return
        with Live(self._picture(), console=self.console, auto_refresh=False) as self.live:
            self._act()
        self.live = None

    def _act(self) -> None:
        for scene in self.scenes:
            self._pay(scene)
        self._pay_lost_again()
        refunds = [Decimal(5000), None, Decimal(1)]
        while self.wires.seconds_left > CALL_S:
            for scene in self.scenes:
                if not scene.settled:
                    self._learn(scene)
            if refunds and self.refunded.state == "paid":
                self._refund(refunds.pop(0))
            elif all(scene.settled for scene in self.scenes):
                return
            self._rest()

    def _pay(self, scene: Scene) -> None:
        answer = self._create(scene)
        body = answer.json()
        scene.take(body)
        self.tell(scene)
        if scene.external_id is None:
            self.say(f"  the service answers {answer.status_code}: {body.get('detail')}")
        elif scene is self.declined:
            self._press(scene, "decline", "the buyer presses Decline")
        elif scene is self.slow:
            self.say("  the buyer takes a while")
        else:
            self._press(scene, "pay", "the buyer pays" if scene.phone else "the buyer opens the link and pays")

    def _create(self, scene: Scene) -> httpx.Response:
        body = {
            "shop_id": scene.shop["shop_id"],
            "amount": str(scene.amount),
            "message": self._message,
            "order_id": scene.order_id,
        }
        if scene.phone is None:
            return self.wires.service("POST", "/payments/kaspi/create-link", json=body)
        return self.wires.service("POST", "/payments/kaspi/create", json={**body, "phone": scene.phone})

    def _press(self, scene: Scene, button: str, what: str) -> None:
        pressed = self.wires.stand_in("POST", f"/_payments/{scene.external_id}/{button}")
        self.say(f"  {what}" if pressed.is_success else f"  {what}, and the stand-in refuses ({pressed.status_code})")
        self._rest(0.1)

    def _pay_lost_again(self) -> None:
        same = self._create(self.lost).json().get("id") == self.lost.id
        self.say(
            f"  the shop asks again: {'the same payment is answered, nothing is sent' if same else 'A NEW PAYMENT'}"
        )

    def _learn(self, scene: Scene) -> None:
        """Look at what the worker learned. The declined one is asked about now, as a shop's page would."""
        declines = scene is self.declined
        path = f"/payments/kaspi/status/{scene.external_id}" if declines else f"/payments/{scene.id}"
        answer = self.wires.service("GET", path)
        if answer.is_success and scene.take(answer.json()):
            self.tell(scene)
            if scene.status == "Error" and not scene.settled:
                self.say("  Kaspi says Error; it is believed when it still says so 30 s later")

    def _refund(self, amount: Decimal | None) -> None:
        scene = self.refunded
        body: dict[str, Any] = {"shop_id": scene.shop["shop_id"], "external_id": scene.external_id}
        body |= {"full": True} if amount is None else {"amount": str(amount)}
        answer = self.wires.service("POST", "/payments/kaspi/refund", json=body).json()
        name = scene.shop["name"]
        if answer.get("success"):
            back = Decimal(str(answer["refunded_amount"]))
            scene.refunds.append(back)
            self.say(f"{name}: {_tenge(back)} go back to the buyer, {_tenge(answer['remaining_amount'])} are left")
        else:
            what = "the rest" if amount is None else _tenge(amount)
            self.say(f"{name}: a refund of {what} more is refused: {answer.get('detail', answer)}")

    def _rest(self, seconds: float = PAUSE_S) -> None:
        self._draw()
        time.sleep(max(0, min(seconds, self.wires.seconds_left)))

    # --- judging

    def judge(self) -> bool:
        """Open the stand-in's ledger, show what it applied, and say whether all of it is right."""
        ids = {scene.external_id for scene in self.scenes if scene.external_id}
        mark = f"{self._message} "
        ledger = self.wires.stand_in("GET", "/_ledger", params={"applied": "true"}).json()
        calls = [
            call
            for call in ledger
            if (call["message"] or "").startswith(mark) or (call["op"] == "refund" and call["external_id"] in ids)
        ]
        invoices = self.wires.stand_in("GET", "/_payments").json()
        paid = [one for one in invoices if one["message"].startswith(mark) and one["status"] == "Processed"]
        faults = self._faults(calls, {one["external_id"] for one in paid})
        self.console.print()
        self.console.print(self._ledger_table(calls, paid))
        if self.lost.state == "unknown":
            self._explain(was_done=any(call["op"] != "refund" and call["external_id"] not in ids for call in calls))
        for fault in faults:
            self.console.print(f"WRONG: {fault}", style="red")
        verdict = "NOT every tenge landed at its own seller" if faults else "every tenge landed at its own seller"
        self.console.print(f"Verdict: {verdict}.", style="bold red" if faults else "bold green")
        return not faults

    def _explain(self, *, was_done: bool) -> None:
        found = (
            "The ledger shows what the service could not know: it was done. Sent again, the buyer would have got a "
            "second invoice."
            if was_done
            else "The ledger shows what the service could not know: it was not done."
        )
        self.console.print(f"The lost reply at {self.lost.shop['name']}: {self.lost.detail} {found}\n")

    def _faults(self, calls: Sequence[dict[str, Any]], paid: set[str]) -> list[str]:
        """What the ledger shows that was not asked for, and what was asked for that it does not show."""
        asked = Counter(
            (scene.shop["organization_bin"], _digest(scene.shop), way, amount)
            for scene in self.scenes
            for way, amount in [("in", scene.amount), *(("back", amount) for amount in scene.refunds)]
        )
        applied = Counter(
            (call["organization_bin"], call["device_token_sha256"], _way(call), Decimal(call["amount"] or 0))
            for call in calls
        )
        names = {(shop["organization_bin"], _digest(shop)): shop["name"] for shop in self.shops}
        faults = []
        for what, calls_like_it in (
            ("asked for, not in the ledger", asked - applied),
            ("not asked for", applied - asked),
        ):
            for (organization_bin, digest, way, amount), times in calls_like_it.items():
                whose = names.get((organization_bin, digest), "a device token that is not its own")
                faults.append(f"{times} x {_tenge(amount)} {way}, BIN {organization_bin} ({whose}): {what}")
        if any(call["default_merchant_used"] for call in calls):
            faults.append("a call named no BIN, so the proxy took its own")
        for scene in self.scenes:
            if scene.external_id and (scene.state == "paid") != (scene.external_id in paid):
                truth = "paid" if scene.external_id in paid else "not paid"
                faults.append(f"{scene.external_id} is {truth} at the stand-in and {scene.state} at the service")
        return faults

    # --- showing

    def say(self, line: str) -> None:
        """Add a line to the lines."""
        self.lines.append(line)
        if self.live is None:
            self.console.print(line, soft_wrap=True)
        self._draw()

    def tell(self, scene: Scene) -> None:
        """Say where a payment stands."""
        shop = scene.shop
        how = "by phone" if scene.phone else "by link"
        self.say(
            f"{shop['name']} ({shop['city']}, {shop['organization_bin']}): {_tenge(scene.amount)} {how}, "
            f"{scene.external_id or 'no id'}: {_state(scene)}"
        )

    def _draw(self) -> None:
        if self.live is not None:
            self.live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        table = _table(f"Payments of run {self.run}", "shop", "city", "BIN", "id")
        table.add_column("tenge", justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True, min_width=22)
        for scene in self.scenes:
            shop = scene.shop
            state = Text(_state(scene), style=_COLOURS.get(scene.state, "dim"))
            identity = scene.external_id or "-"
            table.add_row(
                shop["name"], shop["city"], shop["organization_bin"], identity, _tenge(scene.amount, unit=""), state
            )
        room = max(3, self.console.height - len(self.scenes) - 8)
        return Group(table, *(Text(line, style="dim") for line in self.lines[-min(room, 7) :]))

    def _ledger_table(self, calls: Sequence[dict[str, Any]], paid: Sequence[dict[str, Any]]) -> Table:
        table = _table("What the stand-in's ledger says it applied, in tenge", "seller", "BIN")
        for name in ("calls", "invoiced", "paid", "paid back"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("token", no_wrap=True)
        sellers = {shop["organization_bin"]: shop for shop in self.shops}
        for organization_bin in [*sellers, *sorted({call["organization_bin"] for call in calls} - sellers.keys())]:
            shop = sellers.get(organization_bin)
            own = [call for call in calls if call["organization_bin"] == organization_bin]
            fits = shop is not None and all(call["device_token_sha256"] == _digest(shop) for call in own)
            table.add_row(
                shop["name"] if shop else "an unknown shop",
                organization_bin,
                str(len(own)),
                _sum(call for call in own if _way(call) == "in"),
                _sum(one for one in paid if one["organization_bin"] == organization_bin),
                _sum(call for call in own if _way(call) == "back"),
                Text("its own" if fits else "NOT ITS OWN", style="green" if fits else "bold red"),
            )
        return table


def _table(title: str, *names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _sum(rows: Iterable[dict[str, Any]]) -> str:
    return _tenge(sum((Decimal(row["amount"]) for row in rows), Decimal(0)), unit="")


def _way(call: dict[str, Any]) -> str:
    return "back" if call["op"] == "refund" else "in"


def _digest(shop: dict[str, Any]) -> str:
    return hashlib.sha256(str(shop["device_token"]).encode()).hexdigest()


def _state(scene: Scene) -> str:
    if scene.refunds:
        return f"{scene.state}, refunded" if sum(scene.refunds) == scene.amount else f"{scene.state}, partly refunded"
    return f"{scene.state} ({scene.status})" if scene.status else scene.state


def _tenge(amount: Decimal | float | str, unit: str = " ₸") -> str:
    return f"{Decimal(str(amount)):,.2f}".replace(",", " ") + unit


def _watched() -> bool:
    return sys.stdout.isatty()
