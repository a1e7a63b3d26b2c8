"""The facade's end of an engine: starting its processes, routing requests, sending commands."""
