"""Hugging Face checkpoints in and out, vocabulary growth, the shared-prefix forward."""
