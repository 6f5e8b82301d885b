"""Where the active rows of a rollout go when the others are dropped."""
