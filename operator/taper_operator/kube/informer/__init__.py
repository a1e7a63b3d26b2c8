"""Caches of objects that lists and watches keep up to date, and the queue of changed keys."""
