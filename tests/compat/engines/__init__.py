"""The engines on real servers: etcd and PostgreSQL, as Debian has them. `make compat` runs them."""
