"""Everything that runs in a worker process, and only that: a blocking loop around one loaded handler."""
