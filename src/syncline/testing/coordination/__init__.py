"""Proofs of the coordination words: clients in simulated processes, and what must hold of what they hold."""
