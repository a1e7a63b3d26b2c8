"""The commands of `taper` beside `run`: each module adds its parser and does what it is asked.

They import nothing heavy at their heads: `taper --help` has to answer at once.
"""
