"""The programs ``serve`` and ``work``, each in a file that imports only what it needs. The command line calls them."""


class StartError(Exception):
    """The program cannot start; the text says what to do."""
