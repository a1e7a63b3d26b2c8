"""One metrics endpoint for each node of a Ray cluster."""
