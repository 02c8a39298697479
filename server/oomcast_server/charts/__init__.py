"""A source's samples at screen resolution."""
