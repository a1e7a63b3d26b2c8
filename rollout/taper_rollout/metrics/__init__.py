"""The Prometheus metrics of the replicas: definitions, collection, the server."""
