"""From a folder to a Generator: the special ids and the ways to choose tokens that generation_config.json names."""

import os
import warnings
from collections.abc import Callable

from keras_transformer.decoding import (
    BeamSearch,
    ForbiddenTokens,
    ForcedTokens,
    Generator,
    Greedy,
    MinimumLength,
    NoRepeatNGram,
    RepetitionPenalty,
    Sampling,
)
from keras_transformer.decoding.strategies import Strategy
from keras_transformer.layers.positional_encoding import LearnedPositionalEncoding
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.families import ENCODERS
from keras_transformer.pretrained.gguf_tokenizer import has_tokenizer, tokenizer_arguments
from keras_transformer.pretrained.hub import folder_of
from keras_transformer.pretrained.loading import Source, model_of, read_source
from keras_transformer.pretrained.marian_files import MARIAN
from keras_transformer.pretrained.model import PretrainedModel
from keras_transformer.pretrained.tokenizer import load_tokenizer, tokenizer_file
from keras_transformer.pretrained.whisper import read_forced as read_whisper
from keras_transformer.text.pretrained import PretrainedTokenizer

LENGTH = 128  # of sequences, unless the caller says otherwise
# Settings that choose no other token: lengths, which the generator is told, what is returned, how it is computed.
HARMLESS = frozenset(
    """
    _commit_hash _from_model_config _original_object_hash assistant_confidence_threshold assistant_early_exit
    assistant_lookbehind cache_config cache_implementation chat_format compile_config disable_compile
    is_assistant low_memory max_length max_matching_ngram_size max_new_tokens max_time max_window_size
    num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states output_logits
    output_scores prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values renormalize_logits
    return_dict_in_generate return_legacy_cache target_lookbehind transformers_version trust_remote_code
    use_cache use_model_defaults
    """.split()
)
# What a setting has to be where there is nothing like it here: of no effect.
WITHOUT = {
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (1.0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "sequence_bias": (None,),
    "stop_strings": (None, []),
    "token_healing": (False,),
    "top_h": (None,),
    "typical_p": (1.0,),
    "watermarking_config": (None,),
}

BEHIND = "as it acts behind the prompt, which may have any length in a language model"


def load_generator(
    folder: str | os.PathLike, max_length: int | None = None, strategy: Strategy | None = None
) -> Generator:
    """A generator of the model in a folder, as its `generation_config.json` has it.

    Start, ends, padding, forbidden and forced tokens are the file's, or, without it, those of `config.json`. With a
    tokenizer in the folder the generator takes and returns texts. Where the file asks for samples, it samples, each
    call another one unless it is given a `seed`; a repetition penalty is that of `kt.RepetitionPenalty`, on
    log-probabilities, where `transformers` multiplies or divides logits. Beams are ranked as there, by the sum over
    |Y|^length_penalty; the search is that of `kt.BeamSearch`, which goes on until no beginning can overtake, where
    `transformers` guesses unless `early_stopping` is "never", and so may find others.

    Whisper is told its language and task by tokens that are forced, or, where the file does not name a language, by the
    most probable one; it writes no times.

    Ids that the vocabulary does not have, as the defaults of a configuration class may be, start and end nothing. Where
    the file names the bare model, which gives hidden states, it is the one that gives logits all the same.

    What the file counts from the end of a prompt (`max_new_tokens`, `min_new_tokens`, `begin_suppress_tokens`) counts
    from the start token of an encoder-decoder, or behind Whisper's language and task. A language model has prompts of
    any length: there the first is left to the caller, with a warning, and the others are refused.

    Args:
        folder: As of `load_model`.
        max_length: Longest sequence, prompt and new tokens together. None: of an encoder-decoder what the file says;
            else, and where it says nothing, 128. Never more than the model has learned positions; one that is given and
            longer than that is an error.
        strategy: How tokens are chosen, in place of what the file says.

    Raises:
        ValueError: As `load_model` and `Generator` do; if the file asks for what there is not here, by name; or if the
            checkpoint is an encoder.
    """
    folder = folder_of(folder)
    source = with_logits(read_source(folder))
    kind = str(source.config.get("model_type"))
    if source.modules is not None or kind in ENCODERS:
        raise ValueError(
            f"{source.where} is an encoder, '{kind}', which generates nothing. "
            "kt.pretrained.load_model gives its hidden states, vectors or classes."
        )
    model = model_of(source)
    tokenizer = None
    has_source = "source" in (x.name for x in model.inputs)
    size = {"vocabulary_size": model.output_shape[-1]}
    if source.fields is None and tokenizer_file(folder) is not None:
        tokenizer = load_tokenizer(folder, target=has_source, **size)
    elif source.fields is not None and has_tokenizer(source.fields):
        tokenizer = PretrainedTokenizer(**tokenizer_arguments(source.fields, source.where), **size)
    options = {"source_tokenizer": tokenizer} if has_source else {}
    if has_source and tokenizer is not None and tokenizer_file(folder).name == MARIAN:
        options = {"source_tokenizer": load_tokenizer(folder)}
    where = source.where
    if source.fields is None:
        name = "config.json" if source.generation_config is None else "generation_config.json"
        where = f"'{folder / name}'"
    return make_generator(model, max_length, strategy, where, tokenizer, **options)


def with_logits(source: Source) -> Source:
    """A checkpoint whose file names the bare model, as that of BART does, as the model that gives logits."""
    name = (Settings(source.config, source.of_settings).get("architectures") or [""])[0]
    if not name.endswith("Model") or name.endswith(("LMHeadModel", "MTModel", "EncoderModel")):
        return source
    ending = "ForConditionalGeneration" if source.config.get("is_encoder_decoder") else "ForCausalLM"
    return source._replace(config={**source.config, "architectures": [name.removesuffix("Model") + ending]})


def make_generator(
    model: PretrainedModel,
    max_length: int | None,
    strategy: Strategy | None,
    where: str,
    target_tokenizer=None,
    **options,
) -> Generator:
    """A generator of a loaded model, with what its checkpoint says of generation."""
    given, config = model.checkpoint["generation_config"], model.checkpoint["config"]
    is_whisper = config["model_type"] == "whisper"
    settings = Settings(config if given is None else given, where)
    size = model.output_shape[-1]
    ends = known(ids(settings.get("eos_token_id")), size)
    start = settings.get("decoder_start_token_id", Settings(config, "config.json").get("decoder_start_token_id"))
    starts = known(ids(settings.get("bos_token_id") if start is None else start), size)
    settings.get("bos_token_id")
    chosen = read_strategy(settings)
    forced = read_whisper(settings) if is_whisper else read_forced(settings)
    is_pair = any(x.name == "target" for x in model.inputs)
    prompt = 1 + len(forced) * is_whisper if is_pair else None  # how many tokens it has, if that is known
    if max_length is None:
        max_length = read_length(settings, prompt, model)
    is_chosen = not settings.get("_from_model_config", given is None)
    padding = read_padding(settings, ends, size, is_chosen)
    processors = read_processors(settings, ends, forced, max_length, padding, prompt)
    for name, nothing in WITHOUT.items():
        settings.only(name, *nothing)
    if given is not None:
        settings.check(HARMLESS)
    return Generator(
        model,
        max_length=max_length,
        start_token=starts[0] if starts else None,
        end_token=ends[0] if len(ends) == 1 else ends or None,
        padding_id=padding,
        strategy=chosen if strategy is None else strategy,
        processors=processors,
        target_tokenizer=target_tokenizer,
        **options,
    )


def ids(value) -> list[int]:
    """One id, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def known(tokens: list[int], size: int) -> list[int]:
    """Those of the ids that the vocabulary has."""
    return [token for token in tokens if token < size]


def read_length(settings: Settings, prompt: int | None, model: PretrainedModel) -> int:
    """The longest sequence, where the caller does not say.

    Args:
        settings: Of the file.
        prompt: With how many tokens sequences begin that are not chosen, if that is known.
        model: The model, which may have learned so many positions only.
    """
    learned = [layer for layer in model.layers if isinstance(layer, LearnedPositionalEncoding)]
    positions = [layer.max_length for layer in learned if layer.name != "source_position"]
    new, length = settings.get("max_new_tokens"), LENGTH
    if prompt is not None:
        length = settings.get("max_length", LENGTH) if new is None else prompt + new
    length = min([length, *positions])
    if prompt is None and new is not None:
        warnings.warn(
            f"{settings.where} has max_new_tokens={new}, counted from the end of each prompt. The max_length of a "
            f"Generator counts the prompt, too, and is {length} here. Give load_generator, or each call, a max_length.",
            stacklevel=4,
        )
    return length


def read_padding(settings: Settings, ends: list[int], size: int, is_chosen: bool) -> int | None:
    """The id behind the end of a sequence, or None where each id is a token.

    An end may pad, as it does nothing else there. Another id is never generated once it pads, so it has to be one that
    somebody chose: where `transformers` only wrote down the defaults of a configuration class, any id may be a token.
    """
    padding = settings.get("pad_token_id")
    if padding is None or not 0 <= padding < size:
        return None
    return padding if padding in ends or is_chosen else None


def read_strategy(settings: Settings) -> Strategy:
    """How tokens are chosen. `transformers` keeps 50 of them where a file asks for samples and does not say."""
    names = ("temperature", "top_k", "top_p", "min_p", "num_return_sequences", "num_beams", "length_penalty")
    temperature, top_k, top_p, min_p, count, beams, length_penalty = (settings.get(name) for name in names)
    early = settings.get("early_stopping", False)
    count = count or 1
    samples = settings.get("do_sample", False)
    if beams is not None and beams > 1:
        if samples:
            raise ValueError(f"{settings.where} has do_sample=true and num_beams={beams}; one of the two is supported.")
        penalty = 1.0 if length_penalty is None else length_penalty
        early = early is True  # else False or "never"
        return BeamSearch(
            beams, length_penalty=float(penalty), num_return=count, early_stopping=early, length_offset=0.0
        )
    if not samples:
        return Greedy()
    return Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_k=50 if top_k is None else top_k or None,
        top_p=top_p,
        min_p=min_p,
        seed=None,
        num_return=count,
    )


def read_forced(settings: Settings) -> dict[int, int | list[int]]:
    """The tokens that sequences go on with behind the start, by position."""
    forced = {position: token for position, token in settings.get("forced_decoder_ids") or [] if token is not None}
    if settings.get("forced_bos_token_id") is not None:
        forced[1] = settings["forced_bos_token_id"]
    return forced


def read_processors(
    settings: Settings,
    ends: list[int],
    forced: dict,
    max_length: int,
    padding: int | None = None,
    prompt: int | None = None,
) -> list:
    """What changes the log-probabilities before a token is chosen. Padding need not be forbidden: unless it is an end,
    it is never generated.

    What is suppressed is so behind the forced tokens that sequences begin with, which are part of the prompt in
    `transformers`.
    """
    begin = next(position for position in range(1, max_length + 2) if position not in forced)
    processors: list[Callable] = []
    if settings.get("repetition_penalty", 1.0) != 1.0:
        processors.append(RepetitionPenalty(settings["repetition_penalty"]))
    if settings.get("no_repeat_ngram_size", 0):
        processors.append(NoRepeatNGram(settings["no_repeat_ngram_size"]))
    last = ids(settings.get("forced_eos_token_id"))[:1]
    least = read_least(settings, prompt)
    if least and ends:
        if least < max_length or last:
            processors.append(MinimumLength(min(least + 1, max_length), ends))
        else:
            processors.append(ForbiddenTokens(ends))
    words = settings.get("bad_words_ids") or []
    if any(len(word) != 1 for word in words):
        raise ValueError(f"{settings.where} has bad_words_ids of several tokens; words of one token are supported.")
    forbidden = [*ids(settings.get("suppress_tokens")), *(word[0] for word in words)]
    forbidden = [token for token in forbidden if token != padding or token in ends]
    if forbidden:
        processors.append(ForbiddenTokens(forbidden, start=begin if forced else 0))
    if prompt is None:
        settings.only("begin_suppress_tokens", None, [], why=BEHIND)
    elif settings.get("begin_suppress_tokens"):
        processors.append(ForbiddenTokens(settings["begin_suppress_tokens"], start=begin, stop=begin + 1))
    if last:
        forced = {**forced, max_length - 1: last[0]}
    forced = {position: token for position, token in forced.items() if position < max_length}
    if forced:
        processors.append(ForcedTokens(forced))
    return processors


def read_least(settings: Settings, prompt: int | None) -> int:
    """How many tokens a sequence has at least in front of its end."""
    if prompt is None:
        settings.only("min_new_tokens", None, 0, why=BEHIND)
    new = settings.get("min_new_tokens")
    return max(settings.get("min_length", 0), 0 if new is None else prompt + new)
