import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.vault import Vault, VaultError, new_key

OLD, NEW, OTHER = (new_key() for _ in range(3))
texts = st.text(st.characters(exclude_categories=["Cs"]))
quick = settings(deadline=None, max_examples=50)


@quick
@given(texts)
def test_what_was_encrypted_is_decrypted(text: str) -> None:
    vault = Vault([NEW])
    ciphertext = vault.encrypt(text)
    assert vault.decrypt(ciphertext) == text
    assert ciphertext.isascii()


@quick
@given(texts)
def test_key_can_be_rotated_without_a_moment_when_nothing_reads(text: str) -> None:
    before, between, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    written = before.encrypt(text)
    assert between.decrypt(written) == text
    rotated = between.rotate(written)
    assert after.decrypt(rotated) == text
    with pytest.raises(VaultError):
        before.decrypt(rotated)
    with pytest.raises(VaultError):
        after.rotate(written)


def test_newest_key_writes() -> None:
    assert Vault([NEW]).decrypt(Vault([NEW, OLD]).encrypt("token")) == "token"


def test_same_text_is_never_encrypted_the_same() -> None:
    assert len({Vault([NEW]).encrypt("token") for _ in range(20)}) == 20


@quick
@given(st.text())
def test_any_text_that_no_key_opens_is_a_vault_error_without_that_text(text: str) -> None:
    with pytest.raises(VaultError, match="ENCRYPTION_KEYS") as error:
        Vault([NEW, OLD]).decrypt(text + "…")
    assert OLD not in str(error.value)


@pytest.mark.parametrize("at", [0, 20, -1])
def test_changed_ciphertext_is_not_opened(at: int) -> None:
    vault = Vault([NEW])
    changed = bytearray(vault.encrypt("token").encode())
    changed[at if at >= 0 else -5] ^= 1
    with pytest.raises(VaultError):
        vault.decrypt(changed.decode())


def test_vault_shows_no_key_when_printed() -> None:
    vault = Vault([NEW, OLD])
    assert not {key for key in (NEW, OLD) if key in repr(vault) or key in str(vars(vault))}


def test_new_keys_differ_and_work() -> None:
    assert len({new_key() for _ in range(20)}) == 20
    assert Vault([new_key()]).encrypt("token")
