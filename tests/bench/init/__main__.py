"""`python3 -m init`: see `run.py`."""

import sys

from .run import main

sys.exit(main())
