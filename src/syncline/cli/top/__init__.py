"""The command `top`: the cluster's nodes at work."""
