"""Receive the progress reports that jobs post, and write them into their statuses."""
