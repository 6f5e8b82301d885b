"""Runs on disk: folders, configs, checkpoints, status."""
