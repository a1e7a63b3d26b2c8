"""The operator: RLHFJob in, Kubernetes objects out. Not written yet; the package holds its name."""
