"""The command `doctor`: whether this machine suits a node."""
