"""``account-bridge``, and ``python -m bridge``: SIGTERM and Ctrl-C end it quietly even while it is being loaded."""

import os


def main() -> None:
    """Load the command line and run it."""
    try:
        import signal  # noqa: PLC0415 - the interpreter has not loaded it yet
    except KeyboardInterrupt:
        os._exit(130)
    # Not by an exception: in the middle of an import that comes out as another one. And not by the default of the
    # system, which lets the first process of a container live.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _end)
    from bridge.cli.main import main as run  # noqa: PLC0415 - takes half a second, in which people press Ctrl-C

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
