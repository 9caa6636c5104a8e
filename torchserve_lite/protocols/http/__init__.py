"""The HTTP listeners and one module per protocol spoken on them."""
