"""etcd's v3 interface, for clients of etcd: an adapter over the backend, the store and the watches of the own routes.

`messages.py` has the table of all messages, `methods.py` that of all methods. The gateway (JSON over HTTP/1.1) and gRPC
translate by these tables alone, and call `EtcdFace` (`face.py`). The services (`services/`) carry the calls out.
"""
