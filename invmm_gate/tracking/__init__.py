"""Logging of finished runs to MLflow."""
