"""Fair comparisons: folds of patients, the table of scores, and the numbers computed from it."""
