"""The operator: RLHFJob in, Kubernetes objects out."""
