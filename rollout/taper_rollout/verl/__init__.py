"""VeRL's side of Taper: plugin, replica, weights, rewards and the run of a job. The only importer of verl."""
