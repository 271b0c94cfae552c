"""Coordination on leases, watches and transactions: one word for each thing that people do with them.

`docs/coordination.md` lists the words, and the keys that each one uses. They stand on `KeyValueCalls` alone.
"""
