"""`python -m oomcast_server`."""

from oomcast_server.cli import main

if __name__ == "__main__":
    main()
