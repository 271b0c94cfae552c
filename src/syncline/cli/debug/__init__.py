"""The command `debug`: a bundle for a bug report, without secrets."""
