"""Tests for a state machine of your own: `check_fsm` and `simulate`. Both run it without a server."""
