"""Runs as files: what `oomcast export` and the server write, and `oomcast import` reads."""
