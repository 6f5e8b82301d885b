"""A stand-in for MindSpeed: nothing has to be changed for the fake device, but the order has to be right."""
