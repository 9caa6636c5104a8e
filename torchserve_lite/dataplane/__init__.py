"""What protocols see of the server: one data plane, local today."""
