"""Engines: where the trials of a sweep run. Each is a config; engine.py is what they have in common."""
