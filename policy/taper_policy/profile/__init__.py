"""How long decode steps, prefills and switches take in each layout: values, files, fits."""
