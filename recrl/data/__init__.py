"""Logs -> users' sequences -> splits -> prompts."""
