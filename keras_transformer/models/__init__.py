"""Functions that return a functional `keras.Model`."""

from keras_transformer.models.builders import encoder_classifier, language_model, recurrent_seq2seq, transformer

__all__ = ["encoder_classifier", "language_model", "recurrent_seq2seq", "transformer"]
