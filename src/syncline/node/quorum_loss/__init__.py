"""Recovery after a lost quorum: one node's state goes on in a new cluster. Offline."""
