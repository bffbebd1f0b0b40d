"""`python -m llama4rt` is the `llama4rt` command."""

import sys

from llama4rt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
