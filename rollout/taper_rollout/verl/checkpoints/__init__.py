"""Which of VeRL's checkpoints are complete, which to resume from, which to remove (VeRL 0.9.1)."""
