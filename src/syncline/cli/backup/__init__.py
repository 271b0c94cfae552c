"""The command `syncline backup`: save the state of a cluster to a file, check it, begin a new cluster from it."""
