"""The sentences for errors that need no debugging."""

import errno
from typing import Final

from payment_service.errors import ServiceError
from payment_service.postgres.connecting import ConnectArgumentError, trouble_of
from payment_service.postgres.database import is_unreachable, lacks_schema
from payment_service.postgres.schema import SchemaError
from payment_service.postgres.vault import VaultError
from payment_service.programs import StartError
from payment_service.settings import SettingsError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk or a device, never of a network."""


def sentence_of(error: Exception) -> str | None:
    """The sentence for an error that needs no debugging; none for any other."""
    match error:
        case SettingsError() | StartError() | ConnectArgumentError() | VaultError() | SchemaError():
            return str(error)
        case ServiceError():
            return error.detail
        case OSError() if error.errno in _FULL and error.filename is None:
            return f"What this command prints cannot be written ({error.strerror}). What it did before that is done."
        case OSError() if error.filename is not None:
            return f"{error.filename} cannot be used: {error.strerror}."
    if lacks_schema(error):
        return "The database is not at the schema that this code needs: run 'payment-service migrate' first."
    if trouble := trouble_of(error):
        return trouble.sentence
    if is_unreachable(error):
        return f"The database that DATABASE_URL names cannot serve just now ({type(error).__name__}): try again later."
    return None
