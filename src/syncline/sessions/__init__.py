"""Exactly once: the table of sessions, between the log and any state machine. Pure and deterministic."""
