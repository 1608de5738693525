"""`refine import`: a configuration from the files that are at hand."""
