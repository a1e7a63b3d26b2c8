"""What a job brings to VeRL: prompts, rewards, tokenizer (VeRL 0.9.1)."""
