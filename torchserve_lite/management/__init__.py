"""Changing and showing what is served."""
