"""What the commands of `benchmarks/` are made of; none of these modules is a command."""
