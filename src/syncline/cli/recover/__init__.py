"""The command `syncline recover`: after a lost quorum, one node's state goes on in a new cluster."""
