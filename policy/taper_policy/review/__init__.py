"""Judge finished stages: replay decisions, compare with other plans."""
