"""The calls of `Store`: what `AsyncClient` sends to a server, an embedded node carries out in the process."""
