"""The command `run`: a command of the user under a lock, a leadership, or once."""
