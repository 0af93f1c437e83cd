"""The engine of LiteRT-LM, in a process of its own: where it ends itself, whoever asked it does not."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_transformer_runtime.packages import needed


def ask(
    path: Path,
    prompts: Sequence[str],
    expected: Sequence[Sequence[int]] = (),
    *,
    count: int | None = None,
    num_threads: int | None = None,
) -> list[dict]:
    """What the engine makes of texts, taking the most probable token each time.

    Args:
        path: A .litertlm file.
        prompts: The texts; each begins a session of its own.
        expected: For each, the ids that should be generated, what ends a sequence left away.
        count: Most tokens to generate for each; None for as many as fit.
        num_threads: Default: the engine's own.

    Returns:
        For each prompt "ids", those of its text; "text", what was generated; and, where it was told what to expect,
        "wanted", the text of that, "is_equal", whether it is the same, and "agreed", how many of the expected ids the
        text begins with.

    Raises:
        ImportError: If litert-lm is not installed.
        RuntimeError: If the engine fails; with what it wrote last.
    """
    ids = [list(map(int, row)) for row in expected]
    question = {"prompts": list(prompts), "expected": ids, "count": count, "num_threads": num_threads}
    return _alone("_answer", path, question)


def render(path: Path, message: str) -> str:
    """What the engine makes of the first message of a conversation, by the bundle's template.

    Raises: As `ask`; also if the engine cannot apply the template.
    """
    return _alone("_render", path, {"message": message})


def _alone(name: str, path: Path, question: dict):
    """A function of this module in a process of its own."""
    needed("litert_lm", "The engine of LiteRT-LM")
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "question.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({"name": name, "path": str(path), **question}))
        command = [sys.executable, "-m", "keras_transformer_runtime.engine", str(asked), str(answered)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode or not answered.exists():
            last = "\n".join(done.stdout.splitlines()[-8:])
            raise RuntimeError(f"The engine of LiteRT-LM ended with status {done.returncode} on '{path}':\n{last}")
        return json.loads(answered.read_text())


def _answer(path: str, prompts: list, expected: list, count: int | None, num_threads: int | None) -> list[dict]:
    import litert_lm

    backend = litert_lm.Backend.CPU() if num_threads is None else litert_lm.Backend.CPU(thread_count=num_threads)
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    answers = []
    with litert_lm.Engine(path, backend=backend, cache_dir=":nocache") as engine:
        for place, prompt in enumerate(prompts):
            with engine.create_session(
                apply_prompt_template=False, sampler_config=greedy, max_output_tokens=count
            ) as session:
                session.run_prefill([prompt])
                (text,) = session.run_decode().texts
            answers.append({"ids": engine.tokenize(prompt), "text": text})
            if expected:
                answers[-1] |= _agreement(engine, expected[place], text)
    return answers


def _agreement(engine, ids: list[int], text: str) -> dict:
    def text_of(ids):
        return engine.detokenize(ids) if ids else ""

    wanted = text_of(ids)
    is_equal = wanted == text
    parts = range(len(ids), -1, -1)
    agreed = len(ids) if is_equal else next(n for n in parts if text.startswith(text_of(ids[:n]).rstrip("\ufffd")))
    return {"wanted": wanted, "is_equal": is_equal, "agreed": agreed}


def _render(path: str, message: str) -> str:
    import litert_lm

    with litert_lm.Engine(path, backend=litert_lm.Backend.CPU(), cache_dir=":nocache") as engine:
        with engine.create_conversation() as conversation:
            text = conversation.render_message_to_string({"role": "user", "content": message})
    if not text:
        raise ValueError("The template gives nothing, or cannot be applied")
    return text


if __name__ == "__main__":
    given, written = map(Path, sys.argv[1:])
    question = json.loads(given.read_text())
    functions: dict[str, Callable] = {"_answer": _answer, "_render": _render}
    function = functions[question.pop("name")]
    written.write_text(json.dumps(function(**question)))
