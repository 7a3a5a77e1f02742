"""What the service is compared with: an endpoint that makes one httpx GET to the same stand-in, and one without any.

No routing, no record, no keys, no promise. Started by ``stage.py``.
"""

import json
import os
import sys
from itertools import count
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()
settings = json.loads(os.environ["BARE"])
http = httpx.AsyncClient(trust_env=False, timeout=8)
numbers = count()


@app.post("/bare")
async def bare(request: Request) -> dict[str, Any]:
    body = await request.json()
    query = {"phone": body["phone"], "amount": "100.00", "message": f"bare {next(numbers)}"}
    answer = await http.get(f"{settings['stand_in']}/create/", params={**settings["query"], **query})
    return {"success": True, "external_id": str(answer.json()["data"]["externalId"])}


@app.get("/nothing")
async def nothing() -> dict[str, bool]:
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
