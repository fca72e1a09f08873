"""`python -m maang_cli` is `maang`."""

import sys

from maang_cli.cli import main

sys.exit(main())
