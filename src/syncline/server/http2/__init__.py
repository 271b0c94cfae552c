"""HTTP/2 for the server: connections, streams and flow control. It knows no routes and no messages."""
