"""Everything that reads somebody else's bytes: archives of both kinds, entry by entry."""
