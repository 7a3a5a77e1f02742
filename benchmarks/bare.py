"""What the service is compared with: the least that a FastAPI program could do. Started by ``stage.py``.

``create`` writes one row before and one after the same call to the same upstream, through asyncpg on a small pool and
through httpx with kept connections, which is what most would write. ``config`` and ``status`` look the caller's key up
by its digest in memory; ``row`` reads one row besides. No routing, no record, no laws, no promise.
"""

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

settings = json.loads(os.environ["BARE"])
KEYS = {hashlib.sha256(settings["key"].encode()).hexdigest(): "benchmark"}
SHOPS: dict[int, dict[str, Any]] = {int(shop["shop_id"]): shop for shop in settings["shops"]}
http = httpx.AsyncClient(trust_env=False, timeout=8, limits=httpx.Limits(max_connections=1000))
numbers = count(1)
pool: asyncpg.Pool


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open the pool."""
    global pool  # noqa: PLW0603 - a program of one page
    pool = await asyncpg.create_pool(settings["database_url"], min_size=10, max_size=10)
    await pool.execute(
        "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, shop_id int, organization_bin text, amount bigint, "
        "message text, phone_last4 text, external_id text UNIQUE, state text, created_at timestamptz DEFAULT now())"
    )
    yield
    await pool.close()


app = FastAPI(lifespan=lifespan)


async def caller(authorization: Annotated[str, Header()] = "") -> str:
    """Who calls."""
    name = KEYS.get(hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest())
    if name is None:
        raise HTTPException(401)
    return name


class Create(BaseModel):
    """An invoice to a phone."""

    shop_id: int
    amount: float
    phone: str
    message: str


class Answer(BaseModel):
    """The payment."""

    success: bool
    id: UUID
    external_id: str
    shop_id: int
    organization_bin: str
    state: str
    amount: float


@app.post("/payments/kaspi/create")
async def create(body: Create) -> Answer:
    """One INSERT, the call, one UPDATE."""
    shop, payment_id = SHOPS[body.shop_id], uuid4()
    await pool.execute(
        "INSERT INTO bare (id, shop_id, organization_bin, amount, message, phone_last4, state) "
        "VALUES ($1, $2, $3, $4, $5, $6, 'sending')",
        payment_id, body.shop_id, shop["organization_bin"], round(body.amount * 100), body.message, body.phone[-4:],
    )  # fmt: skip
    query = {
        "access_token": settings["access_token"],
        "phone": body.phone,
        "amount": f"{body.amount:.2f}",
        "message": body.message,
        "organizationBin": shop["organization_bin"],
        "deviceToken": shop["device_token"],
    }
    reply = (await http.get(f"{settings['upstream']}/create/", params=query)).json()
    external_id = str(reply["data"]["externalId"])
    await pool.execute("UPDATE bare SET state = 'pending', external_id = $2 WHERE id = $1", payment_id, external_id)
    return Answer(
        success=True,
        id=payment_id,
        external_id=external_id,
        shop_id=body.shop_id,
        organization_bin=shop["organization_bin"],
        state="pending",
        amount=body.amount,
    )


@app.get("/api/payment/config")
async def config(shop_id: int, _: Annotated[str, Depends(caller)]) -> dict[str, Any]:
    """From memory."""
    return {**SHOPS[shop_id], "shop_id": shop_id}


@app.get("/payments/kaspi/status/{external_id}")
async def status(external_id: str, _: Annotated[str, Depends(caller)]) -> dict[str, Any]:
    """Nothing is looked up but the key."""
    return {"success": True, "external_id": external_id, "state": "paid", "status": "Processed"}


@app.get("/row/{external_id}")
async def row(external_id: str, _: Annotated[str, Depends(caller)]) -> dict[str, Any]:
    """The key, and one row."""
    found = await pool.fetchrow("SELECT * FROM bare WHERE external_id = $1", external_id)
    return {"success": True, "external_id": external_id, "state": found["state"], "amount": found["amount"] / 100}


@app.get("/health/ready")
async def ready() -> dict[str, bool]:
    """It is up."""
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
