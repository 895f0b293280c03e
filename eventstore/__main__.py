"""`python -m eventstore` is the command `eventstore`."""

from eventstore.cli import main

if __name__ == "__main__":
    main(prog_name="eventstore")
