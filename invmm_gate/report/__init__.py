"""Reports of a finished run, in each format, and the public edition. No torch."""
