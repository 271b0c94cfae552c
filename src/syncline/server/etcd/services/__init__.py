"""The services of etcd's interface: one file each. They take and give messages of `messages.py`."""
