"""The run folder: its lock, its records, which survive a crash, and its identity. No torch."""
