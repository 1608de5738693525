"""The package's exceptions: one small family, so that a caller can catch all of it."""


class RefineError(Exception):
    """Anything `refine` raises on purpose; its text is meant for the user."""


class InputError(RefineError):
    """What the user gave is wrong.

    The text names the file, key or parameter, what was found, what is accepted, and how to mend it.
    """
