"""Passwords of tests are hashed in no time: what is tested is not how long a hash takes."""

import pytest
from argon2 import PasswordHasher

from payment_service.access import passwords


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", quick)
    monkeypatch.setattr(passwords, "_NOBODYS", quick.hash("the password of nobody"))
