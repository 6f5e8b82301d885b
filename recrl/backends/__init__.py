"""Devices, and the policy on each engine."""
