"""`python -m cvft` is `cvft`."""

import sys

from cvft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
