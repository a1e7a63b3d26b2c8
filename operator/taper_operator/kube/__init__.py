"""Talks to the API server: connections, requests, watches, events."""
