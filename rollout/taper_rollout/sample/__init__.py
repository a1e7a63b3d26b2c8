"""The packaged sample: everything a first run needs, generated locally, without a download or a GPU."""
