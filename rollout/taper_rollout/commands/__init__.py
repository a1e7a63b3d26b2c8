"""The commands of `taper`: each module adds its parser with `add_parser` and runs the command.

Modules import nothing heavy at the top, so that `taper --help` answers at once.
"""
