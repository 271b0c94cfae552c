"""The blocking client: the words of `AsyncClient` without async, for threads and pre-fork servers."""
