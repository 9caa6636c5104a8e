"""``python -m torchserve_lite``: the same as the ``torchserve-lite`` command."""

import sys

from torchserve_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())
