"""The models and the engines that `decode.py` measures: one set of weights, written into each library's own form.

Every `build_*` function returns functions by name. A case has one, "generate": one whole call as a user of the library
makes it, from ids (or the library's tokens) to an array (rows, NEW) of the best new tokens.
"""

import ctypes
import dataclasses
import functools
import importlib.metadata
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from report import QUICK

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = (1, 32, 64, 2, 1000) if QUICK else (6, 512, 2048, 8, 32_000)
SOURCE, PROMPT, NEW = (5, 3, 4) if QUICK else (24, 8, 64)  # tokens
LONG = 20 if QUICK else 2000  # tokens of the long prompt
CACHES = (16, 32) if QUICK else (256, 512, 1024, 2048)
READ_BYTES = 2**20 if QUICK else 2**29  # what a measurement of the memory's bandwidth reads
POSITIONS = 2112  # rows of the decoder-only model's table of positions
PADDING, UNKNOWN, START, END = range(4)  # ids; the others are words
EPSILON = 1e-5
CHARACTERS = [*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4)]  # that stand for words where an engine takes texts
BEFORE = "before"
DECODER_ONLY, ENCODER_DECODER = "decoder-only", "encoder-decoder"


class Skipped(Exception):
    """An engine that cannot run, with the reason."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is generated."""

    family: str
    batch: int
    beams: int = 1

    @property
    def title(self) -> str:
        """For people."""
        search = f"beam {self.beams}" if self.beams > 1 else "greedy"
        return f"{self.family}, {search}, batch {self.batch}"


CASES = {
    "decoder-1": Case(DECODER_ONLY, 1),
    "decoder-32": Case(DECODER_ONLY, 32),
    "seq2seq-1": Case(ENCODER_DECODER, 1),
    "seq2seq-32": Case(ENCODER_DECODER, 32),
    "beam-8": Case(ENCODER_DECODER, 8, beams=4),
}


# ---- what all engines share ----


def make_weights(family: str, seed: int) -> dict[str, np.ndarray]:
    """Random weights by the names that our model gives them, kernels (in, out).

    Feed-forward networks are loud and attention is quiet, and a network's outputs have no mean in common: else, in a
    random model, the token read last, or one and the same token, is said for ever, and equal tokens would prove little.
    The embeddings of padding and of the end token are zero, so is their logit, and that is never the largest, nor among
    the first eight, of 32,000 of unit size: nothing ends early in any engine.
    """
    rng = np.random.default_rng(seed)
    weights = {}

    def normal(name, *shape, scale, mean=0.0):
        weights[name] = rng.standard_normal(shape, dtype="float32") * np.float32(scale) + np.float32(mean)

    def dense(name, inputs, outputs, gain=0.5):
        normal(f"{name}/kernel", inputs, outputs, scale=gain * inputs**-0.5)
        normal(f"{name}/bias", outputs, scale=0.02)

    def norm(name):
        normal(f"{name}/gamma", WIDTH, scale=0.02, mean=1.0)
        normal(f"{name}/beta", WIDTH, scale=0.02)

    normal("embedding/embeddings", VOCABULARY, WIDTH, scale=WIDTH**-0.5)
    weights["embedding/embeddings"][[PADDING, END]] = 0.0
    stacks = ["decoder"] if family == DECODER_ONLY else ["encoder", "decoder"]
    if family == DECODER_ONLY:
        normal("positions/embeddings", POSITIONS, WIDTH, scale=WIDTH**-0.5)
        norm("last_norm")
    for layer in [f"{stack}_{i}" for stack in stacks for i in range(LAYERS)]:
        dense(f"{layer}/self_attention/query_key_value", WIDTH, 3 * WIDTH)
        dense(f"{layer}/self_attention/output", WIDTH, WIDTH)
        norm(f"{layer}/self_attention_norm")
        if len(stacks) == 2 and layer.startswith("decoder"):
            dense(f"{layer}/cross_attention/query", WIDTH, WIDTH)
            dense(f"{layer}/cross_attention/key_value", WIDTH, 2 * WIDTH)
            dense(f"{layer}/cross_attention/output", WIDTH, WIDTH)
            norm(f"{layer}/cross_attention_norm")
        dense(f"{layer}/feed_forward/inner", WIDTH, INNER, gain=2.0)
        dense(f"{layer}/feed_forward/outer", INNER, WIDTH, gain=2.0)
        weights[f"{layer}/feed_forward/outer/kernel"] -= weights[f"{layer}/feed_forward/outer/kernel"].mean(axis=0)
        norm(f"{layer}/feed_forward_norm")
    return weights


def sinusoids(length: int) -> np.ndarray:
    """The sinusoidal encoding (length, WIDTH) of "Attention Is All You Need", section 3.5."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, WIDTH, 2) / WIDTH)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, WIDTH).astype("float32")


def make_ids(case: Case, seed: int) -> np.ndarray:
    """The prompts (B, PROMPT) or the sources (B, SOURCE): random words, no padding."""
    length = PROMPT if case.family == DECODER_ONLY else SOURCE
    return np.random.default_rng(seed + 1).integers(END + 1, VOCABULARY, (case.batch, length)).astype("int32")


def weight_bytes(case: Case) -> dict[str, int]:
    """Bytes of weights that a step has to read once, and that the start (prompt, or source) has to, float32."""
    attention, feed_forward = 4 * WIDTH**2, 2 * WIDTH * INNER  # biases and norms are small change
    if case.family == DECODER_ONLY:
        start = layer = attention + feed_forward
    else:
        layer = attention + 2 * WIDTH**2 + feed_forward  # keys and values of the memory are projected once
        start = attention + feed_forward + 2 * WIDTH**2
    return {"step": 4 * (LAYERS * layer + VOCABULARY * WIDTH), "start": 4 * LAYERS * start}


# ---- ours ----


def our_model(family: str, seed: int):
    """The model from keras_transformer's layers, with the shared weights."""
    import keras

    import keras_transformer as kt

    def gelu(x):
        return keras.ops.gelu(x, approximate=True)  # that of GPT-2

    options = {"num_heads": HEADS, "intermediate_dim": INNER, "norm_epsilon": EPSILON}
    embedding = kt.TokenEmbedding(VOCABULARY, WIDTH, scale=family == ENCODER_DECODER, name="embedding")
    if family == DECODER_ONLY:
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = kt.LearnedPositionalEncoding(POSITIONS, name="positions")(embedding(tokens))
        for i in range(LAYERS):
            x = kt.DecoderLayer(**options, activation=gelu, normalize_first=True, name=f"decoder_{i}")(x)
        x = keras.layers.LayerNormalization(epsilon=EPSILON, name="last_norm")(x)
        model = keras.Model(tokens, embedding(x, reverse=True))
    else:
        source = keras.Input((None,), dtype="int32", name="source")
        target = keras.Input((None,), dtype="int32", name="target")
        memory = kt.PositionalEncoding()(embedding(source))
        for i in range(LAYERS):
            memory = kt.EncoderLayer(**options, name=f"encoder_{i}")(memory)
        y = kt.PositionalEncoding()(embedding(target))
        for i in range(LAYERS):
            y = kt.DecoderLayer(**options, name=f"decoder_{i}")(y, memory)
        model = keras.Model([source, target], embedding(y, reverse=True))
    weights = make_weights(family, seed)
    for variable in model.weights:
        variable.assign(weights.pop(variable.path))
    if weights:
        raise ValueError(f"The model has no place for {sorted(weights)}.")
    return model


def set_tensorflow_threads(count: int) -> None:
    """Let TensorFlow work with that many threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def build_ours(case: Case, options) -> dict:
    """`kt.Generator` on the backend that is set."""
    import keras

    if keras.backend.backend() == "tensorflow":
        set_tensorflow_threads(options.threads)
    import keras_transformer as kt

    strategy = None
    if case.beams > 1:
        if not hasattr(kt, "BeamSearch"):
            raise Skipped("this keras_transformer has no BeamSearch")
        strategy = kt.BeamSearch(case.beams)
    first = PROMPT if case.family == DECODER_ONLY else 1
    generator = kt.Generator(
        our_model(case.family, options.seed),
        max_length=first + NEW,
        start_token=START,
        end_token=END,
        strategy=strategy,
    )
    ids = make_ids(case, options.seed)
    return {
        "generate": lambda: generator(ids)["tokens"][:, 0, first:],
        "first": lambda: next(generator.stream(ids))[:, None],
    }


def build_before(case: Case, options) -> dict:
    """The same of another checkout."""
    sys.path.insert(0, str(options.before))
    return build_ours(case, options)


def build_long(options) -> dict:
    """Ours with long caches, decoder-only, batch 1: generations by name; see `decode.py` for what they tell."""
    import keras_transformer as kt

    set_tensorflow_threads(options.threads)
    model = our_model(DECODER_ONLY, options.seed)
    words = np.random.default_rng(options.seed + 2).integers(END + 1, VOCABULARY, (1, LONG)).astype("int32")

    @functools.cache
    def generator(max_length):
        return kt.Generator(model, max_length=max_length, end_token=END)

    def generate(prompt_length, max_length):
        result = generator(max_length)(words[:, :prompt_length])
        if result["lengths"][0, 0] != max_length:
            raise ValueError(f"A sequence has {result['lengths'][0, 0]} tokens in place of {max_length}.")

    calls = {"long prompt": (LONG, LONG + NEW), "prefill": (LONG, LONG + 1)}
    calls |= {f"cache {length}": (PROMPT, length) for length in CACHES}
    return {name: functools.partial(generate, *arguments) for name, arguments in calls.items()}


# ---- CTranslate2 ----


def write_ctranslate2(family: str, seed: int, folder: Path) -> None:
    """Write the shared weights as a CTranslate2 model; nothing where it is not installed. Kernels are (out, in)."""
    try:
        from ctranslate2.specs import TransformerDecoderModelSpec, TransformerSpec, common_spec
    except ImportError:
        return
    weights = make_weights(family, seed)

    def dense(spec, name):
        spec.weight = np.ascontiguousarray(weights[f"{name}/kernel"].T)
        spec.bias = weights[f"{name}/bias"]

    def norm(spec, name):
        spec.gamma, spec.beta = weights[f"{name}/gamma"], weights[f"{name}/beta"]

    def stack(spec, name, positions):
        spec.scale_embeddings = family == ENCODER_DECODER
        spec.position_encodings.encodings = positions
        for i, layer in enumerate(spec.layer):
            attention = f"{name}_{i}/self_attention"
            dense(layer.self_attention.linear[0], f"{attention}/query_key_value")
            dense(layer.self_attention.linear[1], f"{attention}/output")
            norm(layer.self_attention.layer_norm, f"{attention}_norm")
            if hasattr(layer, "attention"):
                attention = f"{name}_{i}/cross_attention"
                for linear, part in zip(layer.attention.linear, ("query", "key_value", "output"), strict=True):
                    dense(linear, f"{attention}/{part}")
                norm(layer.attention.layer_norm, f"{attention}_norm")
            dense(layer.ffn.linear_0, f"{name}_{i}/feed_forward/inner")
            dense(layer.ffn.linear_1, f"{name}_{i}/feed_forward/outer")
            norm(layer.ffn.layer_norm, f"{name}_{i}/feed_forward_norm")

    table = weights["embedding/embeddings"]
    vocabulary = [f"word{i}" for i in range(VOCABULARY)]
    vocabulary[UNKNOWN], vocabulary[START], vocabulary[END] = "<unk>", "<s>", "</s>"
    if family == DECODER_ONLY:
        spec = TransformerDecoderModelSpec.from_config(
            LAYERS, HEADS, pre_norm=True, activation=common_spec.Activation.GELUTanh
        )
        stack(spec.decoder, "decoder", weights["positions/embeddings"])
        norm(spec.decoder.layer_norm, "last_norm")
        spec.register_vocabulary(vocabulary)
    else:
        spec = TransformerSpec.from_config(LAYERS, HEADS, pre_norm=False, activation=common_spec.Activation.RELU)
        stack(spec.encoder, "encoder", sinusoids(SOURCE))
        stack(spec.decoder, "decoder", sinusoids(1 + NEW))
        spec.encoder.embeddings[0].weight = table
        spec.register_source_vocabulary(vocabulary)
        spec.register_target_vocabulary(vocabulary)
    spec.decoder.embeddings.weight = spec.decoder.projection.weight = table
    spec.config.layer_norm_epsilon = EPSILON
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True)
    spec.save(str(folder))


def build_ctranslate2(case: Case, options, compute_type: str = "float32") -> dict:
    """CTranslate2."""
    import ctranslate2

    ids = make_ids(case, options.seed)
    texts = [[f"word{i}" for i in row] for row in ids]
    engine = {"device": "cpu", "compute_type": compute_type, "intra_threads": options.threads, "inter_threads": 1}
    folder = str(options.folder / case.family)
    if case.family == DECODER_ONLY:
        generator = ctranslate2.Generator(folder, **engine)

        def generate(new=NEW):
            results = generator.generate_batch(
                texts, beam_size=case.beams, max_length=new, include_prompt_in_result=False
            )
            return np.array([result.sequences_ids[0] for result in results])

        return {"generate": generate, "first": lambda: generate(1)}

    else:
        translator = ctranslate2.Translator(folder, **engine)
        numbers = {f"word{i}": i for i in range(VOCABULARY)} | {"<unk>": UNKNOWN, "<s>": START}

        def generate():
            results = translator.translate_batch(texts, beam_size=case.beams, max_decoding_length=NEW)
            return np.array([[numbers[word] for word in result.hypotheses[0]] for result in results])

    return {"generate": generate}


# ---- what kt.export writes ----


def write_exports(case: Case, options) -> None:
    """Export our model, decoder-only, in the forms that are measured."""
    import keras_transformer as kt

    model = our_model(case.family, options.seed)
    generator = kt.Generator(model, max_length=PROMPT + NEW, end_token=END)
    quiet = {"verify": False}
    kt.export.saved_model(generator, options.folder / "saved_model", **quiet)
    for layout, quantize in (("generate", None), ("generate", "int8"), ("step", None)):
        path = options.folder / f"{layout}-{quantize}.tflite"
        kt.export.litert(generator, path, source_length=PROMPT, layout=layout, quantize=quantize, **quiet)
    for quantize in (None, "int8"):
        path = options.folder / f"bundle-{quantize}.litertlm"
        tokenizer = kt.text.CharacterTokenizer("".join(map(chr, CHARACTERS[: VOCABULARY - END - 1])))
        settings = {"tokenizer": tokenizer, "prefill_lengths": [1, PROMPT], "quantize": quantize}
        kt.export.litertlm(generator, path, **settings, **quiet)


def build_saved_model(case: Case, options) -> dict:
    """The SavedModel, as TensorFlow Serving runs it: by TensorFlow without XLA."""
    import tensorflow as tf

    set_tensorflow_threads(options.threads)
    loaded = tf.saved_model.load(str(options.folder / "saved_model"))
    ids = tf.constant(make_ids(case, options.seed))

    def generate():
        return loaded.signatures["generate"](tokens=ids)["tokens"].numpy()[:, 0, PROMPT:]

    return {"generate": generate, "first": generate}


def build_litert(case: Case, options, layout: str = "generate", quantize: str | None = None) -> dict:
    """The .tflite file, by the LiteRT interpreter; with the layout "step" in a loop in Python."""
    from keras_transformer_runtime import load

    runner = load(options.folder / f"{layout}-{quantize}.tflite", num_threads=options.threads)
    ids = make_ids(case, options.seed)

    def generate():
        return runner(ids)["tokens"][:, 0, PROMPT:]

    def first():
        return next(runner.stream(ids))[:, None] if layout == "step" else generate()

    return {"generate": generate, "first": first}


def build_litert_lm(case: Case, options, quantize: str | None = None) -> dict:
    """The bundle, by LiteRT-LM's engine. It takes and gives texts: each word of the vocabulary is a character."""
    import litert_lm

    path = options.folder / f"bundle-{quantize}.litertlm"
    backend = litert_lm.Backend.CPU(thread_count=options.threads)
    engine = litert_lm.Engine(str(path), backend=backend, cache_dir=":nocache")
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    (ids,) = make_ids(case, options.seed)
    text = "".join(chr(CHARACTERS[id - END - 1]) for id in ids)

    def generate(count=NEW):
        with engine.create_session(
            apply_prompt_template=False, sampler_config=greedy, max_output_tokens=count
        ) as session:
            session.run_prefill([text])
            (answer,) = session.run_decode().texts
        return np.array([engine.tokenize(answer)])

    return {"generate": generate, "first": lambda: generate(1)}


# ---- llama.cpp ----


def write_gguf(seed: int, folder: Path) -> None:
    """Files for llama.cpp, GPT-2 with the shared weights, in float32 and in Q8_0; nothing where it is not installed."""
    try:
        import gguf
        import llama_cpp
    except ImportError:
        return
    weights = make_weights(DECODER_ONLY, seed)
    writer = gguf.GGUFWriter(folder / "f32.gguf", "gpt2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    names = {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    }  # fmt: skip
    for name, value in gpt2_values(weights).items():
        if name == "lm_head.weight":
            continue  # the table of words
        part, kind = name.removeprefix("transformer.").rsplit(".", 1)
        block = ""
        if part.startswith("h."):
            _, number, part = part.split(".", 2)
            block = f"blk.{number}."
        is_kernel = kind == "weight" and part.rpartition(".")[2].startswith("c_")
        value = np.ascontiguousarray(value.T if is_kernel else value, np.float32)
        writer.add_tensor(f"{block}{names[part]}.{kind}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, 2
    paths = (str(folder / name).encode() for name in ("f32.gguf", "q8_0.gguf"))
    if code := llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp could not quantize: {code}")


def build_llama(case: Case, options, name: str = "f32.gguf") -> dict:
    """llama.cpp: the prompt at once, then token by token."""
    import llama_cpp

    threads = {"n_threads": options.threads, "n_threads_batch": options.threads}
    model = llama_cpp.Llama(str(options.folder / name), n_ctx=PROMPT + NEW, n_batch=PROMPT, verbose=False, **threads)
    (ids,) = make_ids(case, options.seed).tolist()

    def generate(count=NEW):
        model.reset()
        tokens = []
        for token in model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == count:
                return np.array([tokens])

    return {"generate": generate, "first": lambda: generate(1)}


# ---- transformers ----


def build_transformers(case: Case, options) -> dict:
    """Hugging Face transformers: GPT-2, or Marian, with the shared weights, on `options.device` or the CPU."""
    import torch
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

    torch.set_num_threads(options.threads)
    weights = make_weights(case.family, options.seed)
    if case.family == DECODER_ONLY:
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER,
            layer_norm_epsilon=EPSILON, bos_token_id=START, eos_token_id=None, pad_token_id=PADDING,
        )  # fmt: skip
        model, values = GPT2LMHeadModel(config), gpt2_values(weights)
    else:
        config = MarianConfig(
            vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
            encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
            activation_function="relu", scale_embedding=True, max_position_embeddings=1 + NEW, pad_token_id=PADDING,
            eos_token_id=None, forced_eos_token_id=None, decoder_start_token_id=START,
        )  # fmt: skip
        model, values = MarianMTModel(config), marian_values(weights)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(np.array(values[name])))
    device = getattr(options, "device", "cpu")
    model.to(device).eval()
    ids = torch.from_numpy(make_ids(case, options.seed).astype("int64")).to(device)
    search = GenerationConfig(
        do_sample=False, num_beams=case.beams, min_new_tokens=NEW, max_new_tokens=NEW, use_cache=True,
        pad_token_id=PADDING, decoder_start_token_id=None if case.family == DECODER_ONLY else START,
    )  # fmt: skip
    first = PROMPT if case.family == DECODER_ONLY else 1

    def generate():
        with torch.inference_mode():
            result = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=search)
        return result[:, first:].cpu().numpy()

    return {"generate": generate}


def gpt2_values(weights: dict) -> dict:
    """The weights by GPT-2's names; its kernels are (in, out), too."""
    parts = {
        "attn.c_attn": "self_attention/query_key_value",
        "attn.c_proj": "self_attention/output",
        "mlp.c_fc": "feed_forward/inner",
        "mlp.c_proj": "feed_forward/outer",
    }
    table = weights["embedding/embeddings"]
    values = {"transformer.wte.weight": table, "lm_head.weight": table}
    values["transformer.wpe.weight"] = weights["positions/embeddings"]
    norms = {"transformer.ln_f": "last_norm"}
    for i in range(LAYERS):
        for theirs, ours in parts.items():
            values[f"transformer.h.{i}.{theirs}.weight"] = weights[f"decoder_{i}/{ours}/kernel"]
            values[f"transformer.h.{i}.{theirs}.bias"] = weights[f"decoder_{i}/{ours}/bias"]
        norms[f"transformer.h.{i}.ln_1"] = f"decoder_{i}/self_attention_norm"
        norms[f"transformer.h.{i}.ln_2"] = f"decoder_{i}/feed_forward_norm"
    for theirs, ours in norms.items():
        values[f"{theirs}.weight"], values[f"{theirs}.bias"] = weights[f"{ours}/gamma"], weights[f"{ours}/beta"]
    return values


def marian_values(weights: dict) -> dict:
    """The weights by Marian's names; its kernels are (out, in), and every projection stands alone."""
    table = weights["embedding/embeddings"]
    values = {"final_logits_bias": np.zeros((1, VOCABULARY), "float32"), "lm_head.weight": table}
    values["model.shared.weight"] = table

    def dense(names, ours):
        kernels = np.split(weights[f"{ours}/kernel"].T, len(names))
        biases = np.split(weights[f"{ours}/bias"], len(names))
        for name, kernel, bias in zip(names, kernels, biases, strict=True):
            values[f"{name}.weight"], values[f"{name}.bias"] = kernel, bias

    def norm(name, ours):
        values[f"{name}.weight"], values[f"{name}.bias"] = weights[f"{ours}/gamma"], weights[f"{ours}/beta"]

    for stack in ("encoder", "decoder"):
        values[f"model.{stack}.embed_tokens.weight"] = table
        values[f"model.{stack}.embed_positions.weight"] = sinusoids(1 + NEW)
        for i in range(LAYERS):
            theirs, ours = f"model.{stack}.layers.{i}", f"{stack}_{i}"
            attention = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
            dense(attention, f"{ours}/self_attention/query_key_value")
            dense([f"{theirs}.self_attn.out_proj"], f"{ours}/self_attention/output")
            norm(f"{theirs}.self_attn_layer_norm", f"{ours}/self_attention_norm")
            if stack == "decoder":
                dense([f"{theirs}.encoder_attn.q_proj"], f"{ours}/cross_attention/query")
                attention = [f"{theirs}.encoder_attn.{part}_proj" for part in "kv"]
                dense(attention, f"{ours}/cross_attention/key_value")
                dense([f"{theirs}.encoder_attn.out_proj"], f"{ours}/cross_attention/output")
                norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}/cross_attention_norm")
            dense([f"{theirs}.fc1"], f"{ours}/feed_forward/inner")
            dense([f"{theirs}.fc2"], f"{ours}/feed_forward/outer")
            norm(f"{theirs}.final_layer_norm", f"{ours}/feed_forward_norm")
    return values


# ---- KerasHub ----


def build_keras_hub(case: Case, options) -> dict:
    """KerasHub on TensorFlow: GPT-2, or BART, of that size, with random weights of its own; compiled by default."""
    import keras
    import keras_hub

    set_tensorflow_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    sampler = "greedy" if case.beams == 1 else keras_hub.samplers.BeamSampler(num_beams=case.beams)
    ids = make_ids(case, options.seed)
    first = PROMPT if case.family == DECODER_ONLY else 1
    target = np.zeros((case.batch, first + NEW), "int32")
    target[:, :first] = ids if case.family == DECODER_ONLY else START
    target_mask = np.arange(first + NEW) < np.full((case.batch, 1), first)
    size = {
        "vocabulary_size": VOCABULARY, "num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH,
        "intermediate_dim": INNER,
    }  # fmt: skip
    if case.family == DECODER_ONLY:
        backbone = keras_hub.models.GPT2Backbone(**size, max_sequence_length=POSITIONS)
        model, output = keras_hub.models.GPT2CausalLM(backbone), "token_ids"
        inputs = {"token_ids": target, "padding_mask": target_mask}
    else:
        backbone = keras_hub.models.BartBackbone(**size, max_sequence_length=1 + NEW)
        model, output = keras_hub.models.BartSeq2SeqLM(backbone), "decoder_token_ids"
        inputs = {
            "encoder_token_ids": ids,
            "encoder_padding_mask": np.ones(ids.shape, bool),
            "decoder_token_ids": target,
            "decoder_padding_mask": target_mask,
        }
    model.compile(sampler=sampler)
    return {"generate": lambda: np.asarray(model.generate(inputs, stop_token_ids=None)[output])[:, first:]}


# ---- the machine ----


def build_bandwidth(options) -> dict:
    """Not a model: reads of READ_BYTES of memory with all threads, each of a part, in two ways."""
    parts = np.ones((options.threads, READ_BYTES // 4 // options.threads), "float32")
    pool = ThreadPoolExecutor(options.threads)

    def read(way):
        list(pool.map(way, parts))

    return {
        "sum": functools.partial(read, np.sum),
        "largest": functools.partial(read, lambda part: np.max(part.view("int32"))),
    }


# ---- by name ----


@dataclasses.dataclass(frozen=True)
class Engine:
    """A library in a process of its own."""

    title: str
    package: str
    build: object
    backend: str = "tensorflow"
    same_weights: bool = True


ENGINES = {
    "keras_transformer": Engine("keras_transformer, TensorFlow", "tensorflow", build_ours),
    "keras_transformer_jax": Engine("keras_transformer, JAX", "jax", build_ours, backend="jax"),
    BEFORE: Engine("keras_transformer, before", "tensorflow", build_before),
    "ctranslate2": Engine("CTranslate2", "ctranslate2", build_ctranslate2),
    "transformers": Engine("transformers, PyTorch", "transformers", build_transformers),
    "keras_hub": Engine("keras_hub, TensorFlow", "keras-hub", build_keras_hub, same_weights=False),
}
DEPLOYED = {  # of `deploy.py`
    "saved_model": Engine("SavedModel, no XLA", "tensorflow", build_saved_model),
    "litert": Engine("LiteRT float32", "ai-edge-litert", build_litert),
    "litert_int8": Engine("LiteRT int8", "ai-edge-litert", functools.partial(build_litert, quantize="int8")),
    "litert_step": Engine("LiteRT float32, steps", "ai-edge-litert", functools.partial(build_litert, layout="step")),
    "litert_lm": Engine("LiteRT-LM float32", "litert-lm-api", build_litert_lm),
    "litert_lm_int8": Engine("LiteRT-LM int8", "litert-lm-api", functools.partial(build_litert_lm, quantize="int8")),
    "llama_cpp": Engine("llama.cpp F32", "llama_cpp_python", build_llama),
    "llama_cpp_q8": Engine("llama.cpp Q8_0", "llama_cpp_python", functools.partial(build_llama, name="q8_0.gguf")),
    "ctranslate2_int8": Engine(
        "CTranslate2 int8", "ctranslate2", functools.partial(build_ctranslate2, compute_type="int8")
    ),
}
TOOLS = {
    "long": Engine("keras_transformer, TensorFlow", "tensorflow", build_long),
    "bandwidth": Engine("memory bandwidth", "numpy", build_bandwidth),
}


def engine_of(name: str) -> Engine:
    """The engine of that name."""
    return {**ENGINES, **DEPLOYED, **TOOLS}[name]


def build(name: str, case: Case | None, options) -> tuple[str, dict]:
    """In a fresh process: the engine's package with its version, and what `build_*` returns."""
    engine = engine_of(name)
    os.environ.update(KERAS_BACKEND=engine.backend, CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    try:
        version = f"{engine.package} {importlib.metadata.version(engine.package)}"
    except importlib.metadata.PackageNotFoundError:
        raise Skipped(f"{engine.package} is not installed") from None
    return version, engine.build(options) if case is None else engine.build(case, options)
