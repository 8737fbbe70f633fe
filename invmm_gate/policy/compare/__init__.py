"""Two runs side by side: what is new, fixed, worse or unchanged."""
