"""``python -m kibo.cli``: the command line where its script is not installed."""

from kibo.cli import main

if __name__ == "__main__":
    main()
