"""Runs `parts/operator_load.py`: latency, memory and idle writes of the operator with 500 jobs.

    python benchmarks/operator.py [--jobs 500] [--rate 5]

This file has the name of a module of the standard library, which all other scripts of this folder need:
imported as `operator`, it loads the standard library's module in its place.
"""

import sys
from importlib.machinery import PathFinder

_FOLDER = __file__.rpartition("/")[0]
_OTHERS = [place for place in sys.path if place not in ("", _FOLDER)]

if __name__ == "operator":
    PathFinder.find_spec("operator", _OTHERS).loader.exec_module(sys.modules[__name__])

if __name__ == "__main__":
    from parts.operator_load import main

    sys.exit(main())
