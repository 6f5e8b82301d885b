"""How many logits are held at once: by the implementations, and by the planner, which counts what they hold.

The first four were measured on a CPU with benchmarks/linear_logp.py.
"""

PLAIN = 2**19
"""Up to here the reference is as fast as what cuts its work."""
KEPT = 2**23
"""Kept for the backward pass in memory of their own."""
CHUNK = 2**21
"""Computed by one matmul of linear_logp."""
LEGAL_CHUNK = 2**20
"""Computed by one matmul of legal_logp."""
WORKSPACE = 2**25
"""Of Triton: dlogits that exist at once (64 MiB in bf16), or T x block_v where that is more: one tile is the least."""
NO_GRADIENT = 2**19
"""Where none is kept for a backward pass: 2 MiB in float32, which stay in a CPU's cache."""
NO_GRADIENT_ROWS = 256
"""Rows that are worth a matrix product; with these a large vocabulary holds more."""
