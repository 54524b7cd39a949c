"""Drives a run: stages, rounds and the ledger. It holds no tensor and imports no service."""
