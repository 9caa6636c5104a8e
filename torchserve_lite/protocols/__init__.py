"""One module per wire protocol: pure functions between wire and core types, and thin routes."""
