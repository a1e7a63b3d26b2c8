"""Taper's integration with VeRL, and the only importer of verl: plugin, replica, weights, rewards, runs."""
