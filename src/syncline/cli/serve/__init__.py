"""`syncline serve`: run one node. The command, the help of its settings, and the process."""
