"""The command `shell`: the other commands, typed one after the other."""
