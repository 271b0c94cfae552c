"""The command `bench`: what to expect of this machine, or of a cluster."""
