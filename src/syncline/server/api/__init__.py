"""The routes of the server: one file per group of them, over one backend. This package knows no socket."""
