"""Snapshots on disk: the format of the file, its writer and receiver, and the store that names and counts them."""
