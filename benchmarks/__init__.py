"""Measurements: throughput of the whole loop, beside a peer, and over seeds."""
