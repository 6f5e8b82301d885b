"""Attention of responses over the prompt that they share and over themselves."""
