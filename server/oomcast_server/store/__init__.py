"""The database: its schema, its migrations, and how it is opened, written and read."""
