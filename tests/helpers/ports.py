"""Free ports for tests that start real processes."""

from __future__ import annotations

from syncline.testing.ports import free_block

__all__ = ["free_block"]
