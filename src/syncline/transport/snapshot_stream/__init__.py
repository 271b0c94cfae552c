"""Snapshots between nodes: protocol, sender and receiver. They travel on connections of their own."""
