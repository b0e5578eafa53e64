"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad usage or bad input. The message says what, where, why and how to fix; the command line prints it and exits 2."""


class TimeUp(Exception):
    """Work has not ended by its deadline; what its last checkpoint holds is kept."""
