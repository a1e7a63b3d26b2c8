"""TPProfile: a published profile of step times and switch costs."""
