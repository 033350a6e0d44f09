"""Sweeps: what is asked for, expanded, checked and joined before the first run starts."""
