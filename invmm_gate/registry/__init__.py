"""The gate at the MLflow model registry: its client, promotion, guard and service."""
