"""Devices: choice, memory, arithmetic, speed. Nothing else asks which one it runs on."""
