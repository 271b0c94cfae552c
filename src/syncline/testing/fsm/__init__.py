"""Tests for a state machine of your own: `check_fsm` and `simulate`. They run it by hand, in processes and in clusters."""
