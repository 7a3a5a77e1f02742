"""Brings a database to the newest schema, with Alembic, which no other part of the service imports."""

from alembic import command
from alembic.config import Config

from payment_service.postgres.schema import migrations


def alembic_config(database_url: str | None = None) -> Config:
    """Alembic's configuration, for the migrations of this code."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Bring the database to head. Safe to run from several processes at once: they wait for each other."""
    command.upgrade(alembic_config(database_url), "head")
