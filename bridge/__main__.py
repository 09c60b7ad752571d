"""``account-bridge``, and ``python -m bridge``: Ctrl-C ends it quietly even while it is being loaded."""

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from bridge.cli.main import main as run  # noqa: PLC0415 - takes half a second, in which people press Ctrl-C
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
