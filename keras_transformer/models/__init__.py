"""Functions that return a functional `keras.Model`."""

from keras_transformer.models.builders import encoder_classifier, language_model, transformer

__all__ = ["encoder_classifier", "language_model", "transformer"]
