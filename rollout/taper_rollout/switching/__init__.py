"""The switch of a replica from one layout to another: its states and its KV plan, both pure."""
