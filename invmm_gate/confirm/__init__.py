"""Confirmation of a flagged probe by inputs that a user could give."""
