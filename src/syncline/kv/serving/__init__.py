"""What every program that serves the key-value machine needs, beside the machine: the server's routes, and `Store`."""
