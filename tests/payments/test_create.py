import httpx
import respx

from tests.support.replies import accepted


async def test_payment_goes_to_the_shops_own_bin_and_token(
    client: httpx.AsyncClient, shops: dict[int, str], wire: respx.MockRouter
) -> None:
    route = wire.get("/create/").mock(return_value=accepted())
    answer = await client.post(
        "/payments/kaspi/create", json={"shop_id": 121038, "amount": 100, "phone": "77015211545", "message": "Test"}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["organization_bin"] == shops[121038]
    assert body["external_id"] == "12800627774"
    query = route.calls.last.request.url.params
    assert query["organizationBin"] == shops[121038]
    assert query["deviceToken"] == "00121038-0000-4000-8000-000000000000"
    assert query["amount"] == "100.00"
