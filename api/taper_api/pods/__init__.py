"""`spec.nodePools`: the pods of a job on a cluster."""
