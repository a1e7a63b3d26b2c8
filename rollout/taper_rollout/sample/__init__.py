"""The packaged sample: all that a first run needs, made on the spot on a machine without a GPU."""
