"""etcd's clients against a cluster of ours. `make compat` runs these tests in an environment that has the clients."""
