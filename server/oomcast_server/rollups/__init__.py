"""Samples rolled up, level by level."""
