"""Handlers of every kind, and what the real TorchServe 0.12 answered when they were served by it."""
