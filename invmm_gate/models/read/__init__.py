"""A checkpoint read before torch is imported: which files there are, what they hold, whether they fit one another."""
