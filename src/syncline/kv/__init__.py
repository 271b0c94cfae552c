"""The key-value state machine: commands in, records and revisions out."""
