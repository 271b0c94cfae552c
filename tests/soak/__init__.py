"""A cluster under a mixed load for minutes or hours, with kills, transfers, snapshots and joins; what grows is a fault.

`python -m tests.soak --minutes 60` (`make soak-hours MINUTES=60`).
"""
