"""What stands behind the last layer of an encoder: a pooler, logits of tokens, of classes, of each token's class."""

from keras_transformer.layers import MaskedPooling
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.projection import Projection
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Head, MakeNorm, Parts


def hidden(parts: Parts):
    """The hidden states."""
    return parts.hidden


def pooled(units: int, activation) -> Head:
    """The hidden states, and a projection of the first one."""

    def head(parts):
        pooler = parts.dense(units, "pooler", activation=activation)
        return {"hidden": parts.hidden, "pooled": pooler(parts.hidden[:, 0])}

    return head


def masked_tokens(dim: int, activation, norm: MakeNorm, *, tied: bool, use_bias: bool = True, logits_bias: bool = True):
    """Logits of the token at each place: a projection of the hidden states, activated and normalized, then the
    embedding in reverse or, where it is not tied, a projection of its own."""

    def head(parts):
        x = Projection(
            dim,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=parts.normal,
            **parts.layer("token_projection"),
        )(parts.hidden)
        x = norm(**parts.layer("token_norm"))(x)
        if tied:
            return parts.embedding(x, reverse=True)
        size = parts.embedding.vocabulary_size
        return Projection(size, use_bias=logits_bias, kernel_initializer=parts.normal, **parts.layer("logits"))(x)

    return head


def classes(
    count: int,
    *,
    dim: int | None,
    activation=None,
    name: str = "class_projection",
    use_bias: bool = True,
    norm: MakeNorm | None = None,
    pooling: str = "first",
    first_dropout: float = 0.0,
    dropout: float = 0.0,
) -> Head:
    """Logits of classes (B, classes) from the first hidden state, or the mean of all.

    Args:
        count: Number of classes.
        dim: Width of a projection in between, or None where there is none.
        activation, name, use_bias, norm: Of the projection.
        pooling: "first" or "mean".
        first_dropout, dropout: Rates before the projection, and before the classes.
    """

    def head(parts):
        if pooling == "mean":
            x = MaskedPooling("mean", **parts.layer("mean"))(parts.hidden)
        else:
            x = parts.hidden[:, 0]
        if first_dropout:
            x = Dropout(first_dropout, **parts.layer("pooled_dropout"))(x)
        if dim is not None:
            x = parts.dense(dim, name, activation=activation, use_bias=use_bias)(x)
        if norm is not None:
            x = norm(**parts.layer("class_norm"))(x)
        if dropout:
            x = Dropout(dropout, **parts.layer("class_dropout"))(x)
        return parts.dense(count, "classifier")(x)

    return head


def token_classes(
    count: int,
    *,
    dim: int | None = None,
    activation=None,
    use_bias: bool = True,
    norm: MakeNorm | None = None,
    dropout: float = 0.0,
) -> Head:
    """Logits of classes for each token (B, T, classes); the arguments are those of `classes`."""

    def head(parts):
        x = parts.hidden
        if dim is not None:
            projection = parts.layer("class_projection")
            x = Projection(
                dim, activation=activation, use_bias=use_bias, kernel_initializer=parts.normal, **projection
            )(x)
        if norm is not None:
            x = norm(**parts.layer("class_norm"))(x)
        if dropout:
            x = Dropout(dropout, **parts.layer("class_dropout"))(x)
        return Projection(count, kernel_initializer=parts.normal, **parts.layer("classifier"))(x)

    return head


def number_of_classes(s: Settings) -> int:
    """How many classes a configuration file names; two where it names none."""
    labels = s.get("id2label")
    s.skip("id2label")
    return len(labels) if labels else s.get("num_labels", 2)
