"""The MLflow model registry as the gate sees it: its records, names, files and webhooks."""
