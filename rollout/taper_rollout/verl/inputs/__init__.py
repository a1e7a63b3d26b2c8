"""A job's inputs for VeRL: prompts, rewards, tokenizer (VeRL 0.9.1)."""
