"""The switch of a replica from one layout to another: its states, its KV plan, how ranks agree on both."""
