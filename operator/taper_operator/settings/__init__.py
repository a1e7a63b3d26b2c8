"""The operator's settings: flags, variables, defaults, certificates, pod policy."""
