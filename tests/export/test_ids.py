"""What counts as token ids, in every form in which people hand them over."""

import numpy as np
import pytest

from keras_transformer_runtime.ids import as_integers, check_range, count_tokens, has_inner_padding, read_rows


def read(values, **options):
    rows = read_rows(values, "The prompt", **options)
    assert rows.ids.dtype == rows.lengths.dtype == np.int32
    return rows.ids.tolist(), rows.lengths.tolist()


@pytest.mark.parametrize(
    "values",
    [
        np.array([[7, 5, 3], [2, 0, 0]]),
        np.array([[7, 5, 3, 0], [2, 0, 0, 0]], np.uint8),
        [[7, 5, 3], [2]],
        ((7, 5, 3), (2,)),
        [np.array([7, 5, 3], np.int16), np.array([2], np.uint64)],
        np.array([np.array([7, 5, 3]), [2]], object),
    ],
)
def test_rows_in_any_form(values):
    assert read(values) == ([[7, 5, 3], [2, 0, 0]], [3, 1])


@pytest.mark.tensorflow
def test_ragged_tensor():
    import tensorflow as tf

    assert read(tf.ragged.constant([[7, 5, 3], [], [2]])) == ([[7, 5, 3], [0, 0, 0], [2, 0, 0]], [3, 0, 1])


@pytest.mark.parametrize(
    "values, options, expected",
    [
        ([[0, 7], [0], []], {"padding_id": None}, ([[0, 7], [0, 0], [0, 0]], [2, 1, 0])),
        (np.array([[0, 7], [5, 0]]), {"padding_id": None}, ([[0, 7], [5, 0]], [2, 2])),
        (np.array([[0, 7, 3], [5, 3, 3]]), {"padding_id": 3}, ([[0, 7], [5, 3]], [2, 1])),
        ([[0, 7], [5]], {"padding_id": 3}, ([[0, 7], [5, 3]], [2, 1])),
        (np.array([[6, 7, -9], [5, 2**40, 8]]), {"lengths": [2, 1]}, ([[6, 7], [5, 0]], [2, 1])),
        (np.array([[0, 7, 0]]), {"lengths": [3], "padding_id": None}, ([[0, 7, 0]], [3])),
        (np.array([[7, 0, 5, 0]]), {"inner_padding": True}, ([[7, 0, 5]], [3])),
        (np.array([[-4, 2**31 - 1]]), {}, ([[-4, 2**31 - 1]], [2])),
        ([], {}, ([], [])),
        ([[]], {}, ([[]], [0])),
    ],
)
def test_lengths_and_padding(values, options, expected):
    assert read(values, **options) == expected


@pytest.mark.parametrize(
    "values, options, message",
    [
        (np.array([[1.0, 2.0]]), {}, r"The prompt must be integers, got float64 of shape \(1, 2\)"),
        ([[1, 2.0]], {}, "float"),
        (np.array([[True, False]]), {}, "got bool"),
        ([[5, True]], {}, r"\['bool'\]"),
        ([[5, None]], {}, "NoneType"),
        (["text"], {}, "must be integers"),
        ([4, 5], {}, "list of lists"),
        ([[[4, 5]]], {}, "list of lists"),
        ([[4, [5]]], {}, "regular shape"),
        (np.array([4, 5]), {}, r"got shape \(2,\)"),
        (np.array([[-1, 4]]), {"vocabulary_size": 7, "owner": "TokenEmbedding 'e'"}, "from -1 to 4; TokenEmb.* 0 to 6"),
        ([[4], [5, 7]], {"vocabulary_size": 7}, "from 4 to 7; the model takes ids from 0 to 6"),
        (np.array([[2**32 + 5]]), {"vocabulary_size": 7}, "4294967301"),
        (np.array([[2**32 + 5]]), {}, "not integers of 32 bits"),
        ([[2**70]], {}, "not integers of 32 bits"),
        (np.array([[2**64 - 1]], np.uint64), {}, "not integers of 32 bits"),
        ([[2**64 - 1], [-1]], {}, "not integers of 32 bits"),
        (np.array([[7, 0, 5]]), {}, "there is a 0, the id of padding, before a token"),
        ([[7, 3, 5], [3, 3]], {"padding_id": 3}, "there is a 3, the id of padding"),
        (np.array([[7, 5, 0]]), {"lengths": [3]}, "there is a 0"),
        (np.array([[7, 5]]), {"lengths": [3]}, r"from 0 to the width of their row, got \[3\]"),
        ([[7, 5], [4]], {"lengths": [1, 2]}, "width of their row"),
        (np.array([[7, 5]]), {"lengths": [-1]}, "width of their row"),
        (np.array([[7, 5]]), {"lengths": [1.0]}, "The lengths of the prompt must be integers"),
        (np.array([[7, 5]]), {"lengths": [1, 1]}, "as many integers"),
    ],
)
def test_what_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        read(values, **options)


def test_sequences_of_any_rank():
    ids = np.array([[[4, 5, 0], [0, 0, 0]], [[4, 0, 5], [4, 4, 4]]])
    assert count_tokens(ids, 0).tolist() == [[2, 0], [3, 3]]
    assert has_inner_padding(ids, 0) and not has_inner_padding(ids[0], 0) and not has_inner_padding(ids, None)
    assert as_integers(ids.tolist(), "A sequence").tolist() == ids.tolist()
    with pytest.raises(ValueError, match="bool"):
        as_integers([[[4, 5], [True, 0]]], "A sequence")
    check_range(ids, "A sequence", 6)
    with pytest.raises(ValueError, match="from 0 to 5; the model takes ids from 0 to 4"):
        check_range(ids, "A sequence", 5)
