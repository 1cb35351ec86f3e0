"""Who trains the stacks of a zoo: one executor per file."""
