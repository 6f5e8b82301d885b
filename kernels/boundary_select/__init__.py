"""The two responses of a group that mark the boundary between right and wrong."""
