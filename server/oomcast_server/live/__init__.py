"""Who watches what, at most ten frames a second."""
