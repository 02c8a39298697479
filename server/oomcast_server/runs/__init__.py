"""How runs and sources stand, and how they are found."""
