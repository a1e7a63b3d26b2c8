"""What every Taper resource is built from: blocks, names, quantities, errors."""
