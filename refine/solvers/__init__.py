"""Minimise any Problem; nothing here knows what z stands for. Imports nothing of the package."""
