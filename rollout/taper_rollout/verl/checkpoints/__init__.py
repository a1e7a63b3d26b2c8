"""VeRL's checkpoints: which are complete, which to resume from, which to remove (VeRL 0.9.1)."""
