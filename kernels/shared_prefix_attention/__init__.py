"""Attention over prompts and their responses on one flat row."""
