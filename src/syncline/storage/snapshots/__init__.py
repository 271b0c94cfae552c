"""Snapshots on disk: the format of the file, and how one is written. The store names and counts them."""
