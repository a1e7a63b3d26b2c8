"""What the operator sees of a job: its objects' states, from the caches or fresh."""
