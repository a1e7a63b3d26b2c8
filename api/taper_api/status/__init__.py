"""`status` of an RLHFJob, and what a job reports about itself."""
