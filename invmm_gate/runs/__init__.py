"""The run folder: one lock, records that survive a crash, resume. No torch."""
