"""Everything that touches SGLang (0.5.23): stacks, views, KV, hand-off, CPU host support."""
