"""Compares torchserve-lite with other servers, in one run on one machine; README.md tells how and why."""
