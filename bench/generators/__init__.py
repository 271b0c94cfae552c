"""Load generators: each is a closed loop over a protocol, and answers with an `Outcome`."""
