"""`python -m refine`."""

from refine.app.main import entry

entry()
