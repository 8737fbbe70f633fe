"""The gate at the door of the MLflow model registry: register, promote, guard, receive and reconcile."""
