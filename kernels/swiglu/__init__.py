"""The gated half of a SwiGLU block."""
