"""The manifests as processes: every pod in a network namespace of its own, by its names and ports there."""
