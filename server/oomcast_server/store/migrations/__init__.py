"""Alembic's scripts; they are part of the wheel and run at the server's start."""
