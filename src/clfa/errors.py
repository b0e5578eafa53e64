"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """Bad usage or bad input. The message says what, where, why and how to fix; the command line prints it and exits 2.

    Args:
        message: for people.
        code: of `clfa.data.problems.PROBLEMS`, where it is about a row or a file of posts; empty otherwise.
    """

    def __init__(self, message: str, code: str = ""):
        super().__init__(message)
        self.code = code


class TimeUp(Exception):
    """Work has not ended by its deadline; what its last checkpoint holds is kept."""
