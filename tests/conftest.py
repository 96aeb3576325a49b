"""Settings of every test session."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start.

    A shell that is not interactive ignores SIGINT in its background jobs, and so do the programs
    that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
