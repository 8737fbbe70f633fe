"""The search for inputs that a user could give and that bring a probe out."""
