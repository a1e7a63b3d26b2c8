"""Decide what to do about a job, and do it."""
