"""Benchmarks: `python -m bench` sets Syncline beside others, `python -m bench.core` and `bench.wal` look at parts."""
