"""What a run shows and leaves behind: progress, metrics, traces, summary, plot."""
