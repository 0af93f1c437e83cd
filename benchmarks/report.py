"""What all benchmarks share: their options, and what a result file says beside its figures."""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"

# With --quick a benchmark runs with tiny sizes and few rounds, to see that it runs. The processes it starts know, too.
if "--quick" in sys.argv:
    os.environ["QUICK_BENCHMARK"] = "1"
QUICK = "QUICK_BENCHMARK" in os.environ

PACKAGES = (
    "keras-transformer-layers",
    "keras",
    "tensorflow",
    "tensorflow_cpu",
    "jax",
    "keras-hub",
    "torch",
    "ctranslate2",
    "transformers",
    "ai-edge-litert",
    "litert-lm-api",
    "llama_cpp_python",
    "numpy",
    "ray",
)
VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")  # as /proc/cpuinfo names them


def make_parser(documentation: str, name: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark, --output and --quick."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    folder = Path(tempfile.gettempdir()) / "quick_benchmarks" if QUICK else RESULTS
    parser.add_argument("--output", type=Path, default=folder / f"{name}.json", help="JSON file (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few rounds: figures that mean nothing")
    return parser


def source_of(script: str) -> str:
    """A hash of the package and of a script: what its figures are figures of."""
    files = [REPOSITORY / script, *sorted((REPOSITORY / "keras_transformer").rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def describe_machine() -> dict:
    """Processor, its widest vector instructions (matrix products live by them), cores and memory."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "cpu": fields.get("model name") or platform.processor(),
        "vectors": next((name for name in VECTORS if name in flags), None),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        **accelerators(),
    }


def accelerators() -> dict:
    """GPUs and TPUs that JAX or PyTorch sees, if the script uses either."""
    if (jax := sys.modules.get("jax")) is not None:
        kinds = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    elif (torch := sys.modules.get("torch")) is not None:
        kinds = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    else:
        kinds = []
    return {"accelerators": kinds} if kinds else {}


def versions() -> dict:
    """Of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save_results(path: Path, script: str, figures: dict) -> None:
    """Write figures with what is needed to read them as JSON; a file that is there is replaced only by a whole one."""
    report = {
        "machine": describe_machine(),
        "versions": versions(),
        "command": " ".join(["python", script, *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "source": source_of(script),
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(report, indent=2) + "\n")
    beside.replace(path)
