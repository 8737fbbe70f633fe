"""Files and their formats: safe reading and writing, locks, strict and canonical JSON, YAML with lines."""
