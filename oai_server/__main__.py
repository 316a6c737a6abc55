"""`python -m oai_server` is `oai-server`."""

from oai_server.cli import main

if __name__ == "__main__":
    main()
