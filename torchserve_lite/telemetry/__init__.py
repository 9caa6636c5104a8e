"""Figures of the server and of handlers, in the Prometheus text format."""
