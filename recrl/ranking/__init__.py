"""Prompts -> ranked items by constrained beam search: what validation, evaluation and ``recommend`` share."""
