"""`refine benchmark`: measurements that decide between ways of doing the same thing."""
