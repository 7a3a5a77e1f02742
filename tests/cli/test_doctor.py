"""``payment-service doctor``, beside a running service and over a database that is not migrated."""

import json

import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("cli")


def test_doctor_finds_nothing_but_the_database_of_the_tests(serving: Rig) -> None:
    done = serving.run("doctor", "--json")
    findings = json.loads(done.stdout)
    assert [one["sentence"] for one in findings if one["level"] == "bad"] == [
        "PostgreSQL runs with fsync=off and full_page_writes=off and forgets payments when its machine stops"
    ]
    checked = "settings database schema laws disk sending secrets shops keys kaspi workers readings messages"
    assert {*checked.split(), "database clock"} <= {one["what"] for one in findings}
    assert done.returncode == 1


def test_doctor_says_what_to_do_about_a_database_that_is_not_migrated(empty_shell: Rig) -> None:
    done = empty_shell.run("doctor")
    assert done.returncode == 1
    assert "payment-service migrate" in done.stdout
