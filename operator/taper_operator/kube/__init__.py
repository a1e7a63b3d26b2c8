"""Talk to the API server: requests, watches, caches, work queue, leader election."""
