"""Decide on the layout: price each one over the forecast, and record why."""
