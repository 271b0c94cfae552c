"""The web console: static files in the package, and the routes that serve them. The pages use the HTTP interface."""
