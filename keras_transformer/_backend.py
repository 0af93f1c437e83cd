"""Imports Keras before anything else does, to say what to install where its backend is not."""

from keras_transformer_runtime.packages import needed

needed("keras", "Keras", "or set KERAS_BACKEND to the backend that is installed")
