"""`python -m keras_adavit`, the same as the command `keras-adavit`."""

import sys

from keras_adavit.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
