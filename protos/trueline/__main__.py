"""`python -m trueline` is the `trueline` command."""

import sys

from trueline.cli import main

sys.exit(main())
