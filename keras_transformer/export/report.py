"""What was written, in a form to print and to look things up in."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ExportReport:
    """What an export consists of. `print(report)` shows it as a table.

    Attributes:
        path: File or folder.
        size: Of all that was written, in bytes.
        signatures: For each signature, the names, shapes and types of its inputs.
        operators: How often each operator occurs.
        milliseconds: Of a call on the samples, by signature; empty if the export was not verified.
        agreement: Share of the sample sequences that equal Python's; None if the export was not verified.
    """

    path: Path
    size: int
    signatures: dict[str, dict[str, str]]
    operators: dict[str, int]
    milliseconds: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None

    def __str__(self):
        lines = [f"{self.path}  {self.size / 2**20:.2f} MiB"]
        for name, inputs in self.signatures.items():
            time = f"  {self.milliseconds[name]:.1f} ms" if name in self.milliseconds else ""
            shown = [f"{key} {spec}" for key, spec in list(inputs.items())[:4]]
            shown += [f"and {len(inputs) - 4} more"] if len(inputs) > 4 else []
            lines.append(f"  {name}({', '.join(shown)}){time}")
        lines.append(f"  operators: {', '.join(sorted(self.operators))}")
        if self.agreement is not None:
            lines.append(f"  equal to Python: {self.agreement:.1%} of the sample sequences")
        return "\n".join(lines)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(x.stat().st_size for x in path.rglob("*") if x.is_file())


def specifications(signatures: dict) -> dict[str, dict[str, str]]:
    """The inputs of signatures, by name."""
    return {
        name: {key: specification(shape, dtype) for key, shape, dtype in signature.inputs}
        for name, signature in signatures.items()
    }


def specification(shape, dtype) -> str:
    """A shape and a type as one word, such as int32[?,7]."""
    return f"{dtype}[{','.join('?' if dim is None or dim < 0 else str(dim) for dim in shape)}]"
