"""Engines: what orders the log of a state machine, if not Raft. One protocol, one driver, several log backends.

replica = await syncline.open("etcd://10.0.0.1:2379,10.0.0.2:2379/jobs", Jobs())
answer = await replica.apply(b"a command")

`protocol` has what each engine offers. `replica` drives a state machine over a `LogBackend` (`backend`), of which
`memory`, `etcd` and `postgres` are three. `docs/engines.md` is the guide.
"""
