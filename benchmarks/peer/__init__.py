"""Trueline beside another trainer on the same work."""
