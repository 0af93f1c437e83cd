"""`python -m keras_transformer_runtime` is `keras-transformer`."""

import sys

from keras_transformer_runtime.command import main

sys.exit(main())
