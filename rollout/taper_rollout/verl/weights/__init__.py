"""New weights from the trainer's ranks to a replica's ranks (VeRL 0.9.1)."""
