"""`python -m clipeval`: the same as `clipeval`."""

import sys

from clipeval.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
