"""Workflows: models and functions that answer one request together."""
