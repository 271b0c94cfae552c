"""etcd's interface over gRPC: the methods of `EtcdFace`, by HTTP/2."""
