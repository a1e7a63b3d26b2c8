"""Runs `parts/operator_load.py`: the operator with 500 jobs, how soon, how large, how quiet.

    python benchmarks/operator.py [--jobs 500] [--rate 5]

To the scripts of this folder, it has the name of a module of the standard library, which all of them need:
who imports it by that name is given that module.
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
