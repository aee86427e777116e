"""`python -m controller` is `tally`."""

from controller.cli.entry import main

if __name__ == "__main__":
    main()
