"""Random calls of etcd's interface, on a real etcd and on a node of ours: each answer is compared."""
