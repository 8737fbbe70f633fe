"""The guard: inside the MLflow server it lets an alias be set only where an attestation holds."""
