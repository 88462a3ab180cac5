"""A Ray cluster on this machine; on a busy one it takes minutes to start."""

PATIENCE = 1500
"""Seconds to wait at most for what must come."""
