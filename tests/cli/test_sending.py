"""``payment-service sending``: the switch that holds what moves money."""

import json

import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("cli")


def test_sending_is_shown_held_and_released(shell: Rig) -> None:
    shown = shell.run("sending", "show", "--json")
    assert (shown.returncode, json.loads(shown.stdout)[0]["sends"]) == (0, "yes")
    held = shell.run("sending", "hold", "--reason", "a restore is under way")
    assert "sending_held" in held.stdout
    shown = shell.run("sending", "show")
    assert shown.returncode == 1
    assert "held by a person" in shown.stdout
    assert "a restore is under way" in shown.stdout
    assert "docs/deploy.md" in shown.stderr
    refused = shell.run("sending", "release", "--replicas-have-all", "--reason", "it is synchronous")
    assert (refused.returncode, "synchronous_standby_names is empty" in refused.stderr) == (1, True)
    released = shell.run("sending", "release", "--reason", "the cabinet was compared")
    assert released.stdout.splitlines()[0].endswith(" has ended: a restore is under way")
    row = json.loads(shell.run("sending", "show", "--json").stdout)[0]
    assert (row["sends"], row["replicas_have_all"], row["reason"]) == ("yes", False, "the cabinet was compared")
