"""`taper run`: training with VeRL on SGLang engines whose layout changes while they decode."""
