"""Recipes of RL compared: several seeds each, one SFT start, one budget of responses (``recrl bench methods``)."""
