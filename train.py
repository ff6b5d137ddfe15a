"""Trains a recipe: python train.py recipes/digits.py, the same as `keras-adavit train`."""

import sys

if __name__ == "__main__":
    try:
        from keras_adavit.commands.main import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(main(["train", *sys.argv[1:]]))
