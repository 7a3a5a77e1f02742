import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.postgres.vault import Vault, VaultError, new_key

PLACE = "device_token/7"
OLD, NEW, OTHER = (new_key() for _ in range(3))
texts = st.text(st.characters(exclude_categories=["Cs"]))
quick = settings(deadline=None, max_examples=50)


@quick
@given(texts)
def test_what_was_encrypted_is_decrypted(text: str) -> None:
    vault = Vault([NEW])
    ciphertext = vault.encrypt(text, PLACE)
    assert vault.decrypt(ciphertext, PLACE) == text
    assert ciphertext.isascii()


@quick
@given(texts)
def test_key_can_be_rotated_without_a_moment_when_nothing_reads(text: str) -> None:
    before, between, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    written = before.encrypt(text, PLACE)
    assert between.decrypt(written, PLACE) == text
    rotated = between.rotate(written, PLACE)
    assert after.decrypt(rotated, PLACE) == text
    with pytest.raises(VaultError):
        before.decrypt(rotated, PLACE)
    with pytest.raises(VaultError):
        after.rotate(written, PLACE)


def test_newest_key_writes() -> None:
    assert Vault([NEW]).decrypt(Vault([NEW, OLD]).encrypt("token", PLACE), PLACE) == "token"


def test_same_text_is_never_encrypted_the_same() -> None:
    assert len({Vault([NEW]).encrypt("token", PLACE) for _ in range(20)}) == 20


@quick
@given(st.text())
def test_any_text_that_no_key_opens_is_a_vault_error_without_that_text(text: str) -> None:
    with pytest.raises(VaultError, match="ENCRYPTION_KEYS") as error:
        Vault([NEW, OLD]).decrypt(text + "…", PLACE)
    assert OLD not in str(error.value)


@pytest.mark.parametrize("at", [3, 23, -1])
def test_changed_ciphertext_is_not_opened(at: int) -> None:
    vault = Vault([NEW])
    changed = bytearray(vault.encrypt("token", PLACE).encode())
    changed[at if at >= 0 else -5] ^= 1
    with pytest.raises(VaultError):
        vault.decrypt(changed.decode(), PLACE)


def test_vault_shows_no_key_when_printed() -> None:
    vault = Vault([NEW, OLD])
    assert not {key for key in (NEW, OLD) if key in repr(vault) or key in str(vars(vault))}


def test_new_keys_differ_and_work() -> None:
    assert len({new_key() for _ in range(20)}) == 20
    assert Vault([new_key()]).encrypt("token", PLACE)


@pytest.mark.parametrize("place", ["device_token/8", "device_token/77", "device_token/", "fingerprint_key/7", ""])
def test_secret_that_was_moved_to_another_place_is_not_opened(place: str) -> None:
    vault = Vault([NEW])
    with pytest.raises(VaultError, match="another row"):
        vault.decrypt(vault.encrypt("token", PLACE), place)
    # Nor does it pass for one that was written before secrets had places.
    with pytest.raises(VaultError, match="another row"):
        vault.decrypt(vault.encrypt("token", PLACE).removeprefix("v2:"), place)


def test_secret_of_before_is_read_and_bound_when_it_is_rotated() -> None:
    vault = Vault([NEW, OLD])
    unbound = Fernet(OLD).encrypt(b"token").decode()
    assert vault.decrypt(unbound, PLACE) == "token"
    bound = vault.rotate(unbound, PLACE)
    assert vault.decrypt(bound, PLACE) == "token"
    with pytest.raises(VaultError, match="another row"):
        vault.decrypt(bound, "device_token/8")
    # A mark alone makes no place of it.
    with pytest.raises(VaultError, match="another row"):
        vault.decrypt(f"v2:{unbound}", PLACE)


def test_what_was_opened_once_is_opened_for_its_own_row_alone() -> None:
    vault = Vault([NEW])
    ciphertext = vault.encrypt("token", PLACE)
    assert [vault.open(ciphertext, PLACE) for _ in range(2)] == ["token", "token"]
    assert vault.open.cache_info().misses == 1
    with pytest.raises(VaultError, match="another row"):
        vault.open(ciphertext, "device_token/8")
