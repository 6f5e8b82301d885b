"""The tensors of one reinforcement-learning step, from prompts to packed active rows."""
