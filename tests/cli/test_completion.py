"""Shell completion, as bash asks for it: commands that are imported only when they are called are completed too."""

import pytest
from typer.testing import CliRunner

from payment_service.cli import app
from payment_service.cli.commands import COMMANDS


def completed(line: str) -> set[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    asked = {
        "_PAYMENT_SERVICE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(app, env=asked, prog_name="payment-service")
    assert done.exit_code == 0, done.output
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("payment-service ", set(COMMANDS)),
        ("payment-service sh", {"shops"}),
        ("payment-service shops ", {"import", "export", "list", "same-seller", "set-token"}),
        ("payment-service keys create bitrix --sco", {"--scope"}),
        ("payment-service keys create bitrix --scope payments:", {"payments:read", "payments:write"}),
        ("payment-service people add aigul@example.kz --role f", {"florist"}),
        ("payment-service webhooks add https://shop.example.kz --event payment.p", {"payment.paid", "payment.pending"}),
        ("payment-service notify add --language ", {"en", "kk", "ru"}),
        ("payment-service shops export --format ", {"csv", "json", "php"}),
        ("payment-service import-legacy --ado", {"--adopt-days"}),
        ("payment-service serve --inst", set()),
    ],
)
def test_what_is_offered(line: str, offered: set[str]) -> None:
    assert completed(line) == offered
