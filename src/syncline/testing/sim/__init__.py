"""The simulated world: clusters of complete nodes in one process, on virtual time. One seed decides everything."""
