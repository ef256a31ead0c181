"""A resolver that merges SQLite databases row by row, and two branches of a shop that need it."""
