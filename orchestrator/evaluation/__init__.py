"""Evaluation beyond one figure: win rates, probes, diversity, best of n, and the trust a proxy deserves."""
