"""`syncline up`: run a whole cluster on this machine. The command, its plan, its node processes and what it shows."""
