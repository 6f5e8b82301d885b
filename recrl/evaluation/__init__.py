"""Metrics of ranked lists, their intervals, and the JSON that an evaluation leaves behind."""
