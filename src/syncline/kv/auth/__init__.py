"""Users, roles and tokens: a part of the replicated store, with a revision of its own."""
