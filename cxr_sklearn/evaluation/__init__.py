"""Fair comparisons: the run, its table of scores, and the numbers computed from it."""
