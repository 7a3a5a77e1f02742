"""Brings a database to the newest schema, with Alembic, which no other part of the service imports."""

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError

from payment_service.postgres.schema import SchemaError, head, migrations


def alembic_config(database_url: str | None = None) -> Config:
    """Alembic's configuration, for the migrations of this code."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Bring the database to head. Safe to run from several processes at once: they wait for each other.

    Raises:
        SchemaError: when a newer release has migrated it.
    """
    try:
        command.upgrade(alembic_config(database_url), "head")
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        newer = "A newer release has migrated the database, and only that one or a later one can use it"
        raise SchemaError(f"{newer}: this one ends at schema {head()}.") from error
