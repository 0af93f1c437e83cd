"""A tokenizer of one's own, for tests."""

import tensorflow as tf

import keras_transformer as kt


class Letters(kt.text.Tokenizer):
    """The letters a and b, with the ids of many a model that is there: what ends a row pads it, too."""

    pad_id = end_id = 1
    start_id, unk_id = 0, 2

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def get_vocabulary(self):
        return ["<s>", "</s>", "?", "a", "b", *self.special_tokens]

    def encode(self, strings):
        letters = tf.strings.bytes_split(strings)
        found = tf.argmax(letters.values[:, None] == tf.constant(["a", "b"])[None], axis=1, output_type=tf.int32)
        return letters.with_values(3 + found)

    def decode(self, ids):
        return tf.strings.reduce_join(tf.gather(self.get_vocabulary(), ids), axis=-1)
