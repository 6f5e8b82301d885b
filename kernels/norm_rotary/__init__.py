"""RMSNorm over each head and rotary positions, as attention wants its queries and keys."""
