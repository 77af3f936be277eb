"""`python -m videomdm_ext` is `videomdm`."""

import sys

from videomdm_ext.cli.main import main

sys.exit(main())
