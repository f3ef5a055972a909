"""What the package raises. Each message is one sentence for the one who can mend it, and holds no secret."""


class ConfigError(ValueError):
    """A variable is missing or wrong; the message names it and says what it takes."""


class LostWritesError(RuntimeError):
    """Metrics, parameters or tags of a run did not reach the server."""


class CheckFailedError(Exception):
    """A test of the connection failed; the message says what to mend."""
