"""What machines can do: profiles of known ones, and what this one has."""
