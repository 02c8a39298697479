"""How Alembic runs here: on the connection that the store hands over, in one transaction."""

from __future__ import annotations

from alembic import context

from oomcast_server.store.schema import metadata

connection = context.config.attributes["connection"]
# DDL is transactional on both engines, though Alembic assumes otherwise of SQLite: a migration that fails leaves
# nothing behind.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
