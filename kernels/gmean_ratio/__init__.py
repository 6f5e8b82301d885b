"""Importance ratio of whole responses from the log-probabilities of their tokens."""
