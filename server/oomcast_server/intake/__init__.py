"""Frames in, one transaction for many of them, acknowledgement."""
