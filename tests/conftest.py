"""Settings of every test session."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C and a closed terminal reach the programs that tests start.

    A shell that is not interactive ignores SIGINT in its background jobs, `nohup` ignores SIGHUP,
    and the programs that they start do so, too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
