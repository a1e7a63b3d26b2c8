"""The decisions of a run on disk: write, read, explain, replay."""
