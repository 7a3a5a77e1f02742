"""Imports what a command needs when it is called."""

import gc
from importlib import import_module
from typing import Any


def load(module: str) -> Any:
    """Import a module with all that it imports.

    The garbage collector never looks at what is imported, since it stays.
    """
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()
