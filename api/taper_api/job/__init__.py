"""`spec` of an RLHFJob: what is trained, on what, how."""
