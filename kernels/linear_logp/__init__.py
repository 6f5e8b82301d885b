"""Log-probabilities of tokens from hidden states and the output matrix."""
