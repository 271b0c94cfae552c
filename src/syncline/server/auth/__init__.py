"""Clients and what they may do: credentials, the check of each request, and the audit log."""
