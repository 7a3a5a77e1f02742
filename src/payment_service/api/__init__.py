"""The API: all of HTTP. JSON in, a typed request; a row out, JSON. Decides nothing about money."""

from pydantic import BaseModel

# FastAPI's models of an OpenAPI document are built when one is made; built at each start, they are a tenth of it.
BaseModel.model_config["defer_build"] = True
import fastapi  # noqa: E402, F401 - see above

del BaseModel.model_config["defer_build"]
