"""`python -m keras_transformer_runtime` is `keras-transformer`."""

import sys

from keras_transformer_runtime.command import script

sys.exit(script())
