"""The tokenizer of a checkpoint: what its tokenizer.json says, with the checkpoint's own ids."""

import functools
import json
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_transformer.text import definition as definitions
from keras_transformer.text.chat import render
from keras_transformer.text.checkpoint import CheckpointTokenizer
from keras_transformer.text.graph import GraphTokenizer, NotInTheGraph
from keras_transformer_runtime.packages import needed


@keras.saving.register_keras_serializable("keras_transformer")
class PretrainedTokenizer(CheckpointTokenizer):
    """Tokenizer of a checkpoint, as its `tokenizer.json` defines it; `kt.pretrained.load_tokenizer` reads a folder.

    Normalization, words and pieces, special tokens and the way back are those of the file, and run in the `tokenizers`
    package. What the file's template puts around a text, [CLS] and [SEP] say, is put around it here, too, unless
    `add_start` or `add_end` says otherwise. Padding and truncation that are noted in a file are what somebody did with
    it last, so they are left out: rows are padded to the longest, and `max_length` cuts. In a graph, and so in a
    SavedModel, TensorFlow's operations give the same ids; where they cannot, `graph_problem()` says why and an export
    is refused. A process that loads such a SavedModel must `import tensorflow_text` first.

    Args:
        definition: The text of a `tokenizer.json`, or its content as a dict.
        named_tokens: The tokens that have a role: "bos_token", "eos_token", "pad_token", "unk_token", "sep_token",
            "cls_token" and "mask_token" to their strings, others to what a chat template asks for.
        chat_template: A template in Jinja's language, or several by name.
        vocabulary_size: Number of ids of the model that it is used with. Those that are no token read as nothing. None:
            as many as there are tokens.
        add_start: Whether each row starts with what the template puts in front, or else with the beginning-of-sequence
            token. None: as the template does.
        add_end: The same of the end.
        **kwargs: `max_length`, `special_tokens`, `name`, as in `Tokenizer`; and what is done to texts first: `prompt`,
            a string, is put in front, `strip=True` takes white space away at the edges, `lowercase=True` makes letters
            small ones.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with the padding token's id, or 0, on the right; T is the longest row.

    Attributes: `start_id`, `end_id`, `pad_id` and `unk_id`, None where the checkpoint has no such token; `mask_id`.

    Raises:
        ValueError: If the definition is none; if a token has an id that is not in `vocabulary_size`, which is named; if
            there is no token to start or end with; if the input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import PretrainedTokenizer
    >>> vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "play": 3, "##ing": 4}
    >>> definition = {
    ...     "model": {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]",
    ...               "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    ...     "pre_tokenizer": {"type": "BertPreTokenizer"},
    ...     "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    ...     "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
    ... }
    >>> tokenizer = PretrainedTokenizer(definition, named_tokens={"unk_token": "[UNK]", "cls_token": "[CLS]"})
    >>> ids = tokenizer(["playing ☃"])
    >>> ids.numpy().tolist(), tokenizer.detokenize(ids).numpy().tolist()
    ([[1, 3, 4, 0, 2]], [b'playing'])
    """

    def __init__(
        self,
        definition: str | Mapping,
        *,
        named_tokens: Mapping[str, str] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        vocabulary_size: int | None = None,
        add_start: bool | None = None,
        add_end: bool | None = None,
        **kwargs,
    ):
        name = kwargs.get("name") or type(self).__name__
        self.definition = definitions.as_text(definition)
        self.named_tokens = dict(named_tokens or {})
        self.chat_template = chat_template if isinstance(chat_template, str | None) else dict(chat_template)
        self._fast = definitions.as_fast(self.definition, name)
        ids = {role: self._fast.token_to_id(token) for role, token in self.named_tokens.items()}
        super().__init__(
            definitions.vocabulary(self._fast, vocabulary_size, name),
            ids,
            definitions.template(self._fast),
            definitions.special_ids(self._fast),
            add_start=add_start,
            add_end=add_end,
            **kwargs,
        )

    def graph_problem(self) -> str | None:
        try:
            self._graph  # noqa: B018
        except NotInTheGraph as problem:
            return str(problem)
        return None

    @functools.cached_property
    def _graph(self) -> GraphTokenizer:
        return GraphTokenizer(self.definition, self._fast, self._vocabulary, self.name)

    def check_graph(self) -> None:
        if problem := self.graph_problem():
            is_unigram = json.loads(self.definition)["model"]["type"] == "Unigram"
            model = " Or read the checkpoint's SentencePiece model, if there is one: load_tokenizer(folder, file=...)."
            raise ValueError(
                f"{self.name} runs in Python only: the graph cannot do {problem} exactly. Export with ids: "
                f"source_tokenizer=None, target_tokenizer=None.{model * is_unigram}"
            )

    def begins_word(self):
        return definitions.begins_word(self.definition, self.get_vocabulary(), self.name)

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        if not tf.executing_eagerly():
            self.check_graph()
            return tf.autograph.experimental.do_not_convert(self._graph.encode)(strings)
        texts = [text.decode(errors="replace") for text in np.asarray(strings).tolist()]
        rows = self._fast.encode_batch(texts, add_special_tokens=False)
        ids = np.array([id for row in rows for id in row.ids], np.int32)
        return tf.RaggedTensor.from_row_lengths(ids, np.array([len(row) for row in rows], np.int64), validate=False)

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        if not tf.executing_eagerly():
            self.check_graph()
            return tf.autograph.experimental.do_not_convert(self._graph.decode)(ids)
        return tf.constant(self._fast.decode_batch(ids.to_list(), skip_special_tokens=False), tf.string)

    def apply_chat_template(
        self,
        messages: Sequence,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        tools: Sequence[Mapping] | None = None,
        documents: Sequence[Mapping] | None = None,
        chat_template: str | None = None,
        **variables,
    ) -> list | str:
        """The prompt that a conversation is, as the checkpoint's template writes it.

        Args:
            messages: The conversation: dicts with "role" and "content". Or a list of conversations.
            add_generation_prompt: Whether the beginning of the assistant's answer follows, for the model to go on with.
            tokenize: Whether to return ids, without anything added around them: what a `Generator` takes as a prompt.
                False: the text. (Given to the tokenizer, it would get a second start, if the template wrote one.)
            tools: Functions that the model may call, each as a JSON schema.
            documents: Texts to answer from, dicts with "title" and "text".
            chat_template: Another template, or the name of one of several.
            **variables: What else the template asks for.

        Returns: A list of ids, or a string; of several conversations a list of these.

        Raises: ValueError if there is no template, or if it refuses the messages.
        """
        several = isinstance(messages, list | tuple) and bool(messages) and isinstance(messages[0], list | tuple)
        texts = [
            render(
                definitions.chosen_template(self.chat_template, chat_template, tools, self.name),
                conversation,
                self.name,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **{**self.named_tokens, **variables},
            )
            for conversation in (messages if several else [messages])
        ]
        prompts = self._pieces(self._string_tensor(texts)).to_list() if tokenize else texts
        return prompts if several else prompts[0]

    def get_config(self):
        return {
            **super().get_config(),
            "definition": self.definition,
            "named_tokens": dict(self.named_tokens),
            "chat_template": self.chat_template,
            "vocabulary_size": len(self._vocabulary),
        }
