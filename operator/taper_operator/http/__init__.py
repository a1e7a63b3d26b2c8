"""Where the operator listens: probes and metrics."""
