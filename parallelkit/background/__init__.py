"""Calls that nobody waits for."""
