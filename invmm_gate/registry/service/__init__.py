"""The service that stands at a registry: webhooks wake it, and it gates the versions that have no verdict yet."""
