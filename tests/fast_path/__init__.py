"""What holds the fast path to its promise: whoever looks from outside cannot tell whether it is on."""
