"""Worlds to align a model in: each writes its own model and data, and holds its own gold score."""
