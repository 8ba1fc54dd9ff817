"""`python -m computemeter`: the command line."""

from computemeter.cli import main

if __name__ == "__main__":
    main()
