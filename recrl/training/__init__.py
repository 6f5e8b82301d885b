"""SFT and RL: loops, optimiser, checkpoints, meters."""
