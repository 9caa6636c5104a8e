"""The vocabulary of the server: plain data, no I/O, no tasks. Imports the standard library only."""
