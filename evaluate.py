"""Evaluates a model: python evaluate.py MODEL.keras, the same as `keras-adavit evaluate`."""

import sys

if __name__ == "__main__":
    try:
        from keras_adavit.commands.main import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(main(["evaluate", *sys.argv[1:]]))
