"""Configuration: one table of keys, read once, passed on as small frozen pieces."""
