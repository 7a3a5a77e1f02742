"""Imports what a command needs when it is called."""

import gc
from importlib import import_module
from typing import Any


def load(module: str) -> Any:
    """Import a module with all that it imports.

    What is imported stays: it is not searched for garbage, neither meanwhile nor in the life of the program.
    """
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()
