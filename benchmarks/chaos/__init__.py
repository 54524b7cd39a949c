"""Chaos: a small run under hundreds of faults must end as the same run left alone does."""
