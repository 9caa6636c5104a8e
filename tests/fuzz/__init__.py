"""Fuzzers: what strangers may send, tried by the hundred thousand.

``python -m tests.fuzz --help`` runs one for long, the test beside it runs each for a moment. docs/reliability.md tells
what they have found, and how a finding is run again.
"""
