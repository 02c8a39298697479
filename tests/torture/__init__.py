"""Kills server, agents and trainings again and again, and counts what is lost: `make torture N=100`."""
