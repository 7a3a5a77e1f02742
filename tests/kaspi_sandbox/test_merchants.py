import json
from pathlib import Path

from kaspi_sandbox.merchants import Merchants

SELLER, OTHER_SELLER = "920317450731", "860214400107"


def test_a_token_must_belong_to_the_bin() -> None:
    merchants = Merchants({SELLER: {"token-one"}, OTHER_SELLER: {"token-two"}}, None)
    assert merchants.refusal(SELLER, "token-one") is None
    assert merchants.refusal(SELLER, None) is None
    assert merchants.refusal(SELLER, "token-two") == -99000003
    assert merchants.refusal(SELLER, "token-xxx") == -1501
    assert merchants.refusal("991011000048", "token-one") == -99000002


def test_the_tokens_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    merchants = Merchants({SELLER: {"token-one"}}, file)
    assert merchants.bins() == [SELLER]
    file.write_text(json.dumps({SELLER: ["token-new"], OTHER_SELLER: ["token-two"]}))
    assert merchants.bins() == [OTHER_SELLER, SELLER]
    assert merchants.refusal(SELLER, "token-one") is None
    assert merchants.refusal(SELLER, "token-new") is None
    assert merchants.refusal(OTHER_SELLER, "token-two") is None


def test_a_token_that_the_file_no_longer_names_is_inactive(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({SELLER: ["token-old"]}))
    merchants = Merchants({}, file)
    assert merchants.refusal(SELLER, "token-old") is None
    file.write_text(json.dumps({SELLER: ["token-after"]}))
    assert merchants.refusal(SELLER, "token-old") == -1502


def test_a_file_caught_half_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({SELLER: ["token-one"]}))
    merchants = Merchants({}, file)
    assert merchants.refusal(SELLER, "token-one") is None
    for torn in ('{"9203', '["no", "map"]', '{"920317450731": "text"}'):
        file.write_text(torn)
        assert merchants.refusal(SELLER, "token-one") is None
