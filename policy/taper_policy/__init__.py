"""When to change the layout of a replica: arithmetic on numbers, with the standard library and numpy only."""
