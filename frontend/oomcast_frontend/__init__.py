"""The page: plain ES modules and styles under `static/`, which the server sends as they are (no build step)."""
