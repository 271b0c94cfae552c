"""The command `syncline up`: run a whole cluster on this machine. Its plan, its node processes and its output."""
