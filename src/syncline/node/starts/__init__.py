"""Starts of nodes: their incarnations, and the detection of starts on an older copy of a data directory."""
