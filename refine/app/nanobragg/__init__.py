"""nanoBragg.c's command line: its option syntax, and every number that it stands for."""
