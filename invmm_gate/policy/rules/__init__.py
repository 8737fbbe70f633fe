"""One file a rule: its settings, its findings and its texts."""
