"""The CRDs, generated from the models."""
