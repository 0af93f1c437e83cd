"""Asks a TensorFlow Serving model for translations over REST, with Python's standard library only.

README.md tells how to start the server. For each text, its answers with their scores:

    python client_rest.py "Wednesday, August 16, 2023" "2023년 8월 16일 수요일"
"""

import argparse
import json
import urllib.error
import urllib.request


def translate(texts: list[str], url: str, model: str, timeout: float = 60) -> list[dict]:
    """For each text a dict: `texts` (N), `tokens` (N, L), `lengths` (N) and `scores` (N), the best first."""
    request = urllib.request.Request(
        f"{url}/v1/models/{model}:predict",
        json.dumps({"signature_name": "serving_default", "instances": texts}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:  # the server's own words, such as that a text is too long
        raise SystemExit(f"{request.full_url} answered {error.code}: {error.read().decode(errors='replace')}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"{request.full_url} cannot be reached: {error.reason}. Is the server up?") from None


def main() -> None:
    """Print the answers of each text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--url", default="http://localhost:8501")
    parser.add_argument("--model", default="translator")
    options = parser.parse_args()
    for text, answer in zip(options.texts, translate(options.texts, options.url, options.model), strict=True):
        for candidate, score in zip(answer["texts"], answer["scores"], strict=True):
            print(f"{text}\t{score:.4f}\t{candidate}")


if __name__ == "__main__":
    main()
