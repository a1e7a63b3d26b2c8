"""Simulate generation stages under a policy, and find the best plan."""
