"""Trains policies, reward models and critics, one step at a time."""
