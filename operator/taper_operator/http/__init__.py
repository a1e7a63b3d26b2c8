"""HTTP servers of the operator: probes and metrics."""
