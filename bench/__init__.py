"""Benchmarks: `python -m bench.<name>`. Each prints the machine, what it does, and a table."""
