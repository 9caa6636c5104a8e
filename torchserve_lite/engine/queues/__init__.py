"""Queues of jobs: one ``JobQueue`` each, and the policies that say when a batch goes."""
