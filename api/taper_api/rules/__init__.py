"""Rules between fields, each as Python and as CEL."""
