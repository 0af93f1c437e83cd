"""The engine of LiteRT-LM, in a process of its own: where it ends itself, whoever asked it does not."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
        "wanted", the text of that, and "agreed", how many of the expected ids the text begins with.

    Raises:
        ImportError: If litert-lm is not installed.
        RuntimeError: If the engine fails; with what it wrote last.
    """
    needed("litert_lm", "The engine of LiteRT-LM")
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
        asked = {"path": str(path), "prompts": list(prompts), "expected": [list(map(int, ids)) for ids in expected]}
        question.write_text(json.dumps({**asked, "count": count, "num_threads": num_threads}))
        command = [sys.executable, "-m", "keras_transformer_runtime.engine", str(question), str(answer)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode or not answer.exists():
            last = "\n".join(done.stdout.splitlines()[-8:])
            raise RuntimeError(f"The engine of LiteRT-LM ended with status {done.returncode} on '{path}':\n{last}")
        return json.loads(answer.read_text())


def _answer(path: str, prompts: list, expected: list, count: int | None, num_threads: int | None) -> list[dict]:
    """As `ask`, in this process."""
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
    if wanted == text:
        return {"wanted": wanted, "agreed": len(ids)}
    parts = range(len(ids) - 1, -1, -1)
    return {"wanted": wanted, "agreed": next(n for n in parts if text.startswith(text_of(ids[:n]).rstrip("\ufffd")))}


if __name__ == "__main__":
    given, written = map(Path, sys.argv[1:])
    written.write_text(json.dumps(_answer(**json.loads(given.read_text()))))
