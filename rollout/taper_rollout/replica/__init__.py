"""One VeRL replica: serve requests, watch the batch, decide, switch."""
