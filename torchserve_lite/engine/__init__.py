"""Jobs in, results out. Knows nothing of HTTP or gRPC, and starts workers by module name only."""
