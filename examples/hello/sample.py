"""Write text with a model trained by a hello job, or measure it on the held-out bytes.

    stannary get JOB -o out/
    python examples/hello/sample.py out/model.safetensors --prompt "The import statement"
    python examples/hello/sample.py out/model.safetensors --eval

The shape of the model is in the file's metadata: the options of the job that trained it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from recipe import ByteGPT, Hello, Shape
from safetensors import safe_open


def load(path: Path) -> ByteGPT:
    """Return the model in a checkpoint."""
    with safe_open(path, framework="pt") as file:
        options = json.loads((file.metadata() or {}).get("recipe", "{}"))
        model = ByteGPT(Shape(**options))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # not a dict
    return model.eval()


@torch.no_grad()
def sample(model: ByteGPT, prompt: bytes, num_bytes: int, *, temperature: float, seed: int) -> bytes:
    """Return `num_bytes` bytes that continue the prompt."""
    generator = torch.Generator().manual_seed(seed)
    text = list(prompt or b"\n")
    for _ in range(num_bytes):
        context_BT = torch.tensor([text[-model.shape.context :]])
        logits_V = model(context_BT)[0, -1] / temperature
        text.append(int(torch.multinomial(logits_V.softmax(-1), 1, generator=generator)))
    return bytes(text)


def heldout_bits_per_byte(model: ByteGPT) -> float:
    """Return the measure the job's last merge reports, on this interpreter's own corpus."""
    from pydoc_data.topics import topics

    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory, "corpus")
        corpus.write_text("".join(topics[key] for key in sorted(topics)), encoding="utf-8")
        recipe = Hello(vars(model.shape), {"corpus": corpus})
    return recipe.evaluate(model)["heldout_bits_per_byte"]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="model.safetensors as `stannary get` brings it")
    parser.add_argument("--prompt", default="The ")
    parser.add_argument("--bytes", type=int, default=400, dest="num_bytes")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval", action="store_true", help="print held-out bits per byte instead")
    arguments = parser.parse_args()
    model = load(arguments.checkpoint)
    if arguments.eval:
        print(f"heldout_bits_per_byte {heldout_bits_per_byte(model):.6f}")
        return
    text = sample(
        model,
        arguments.prompt.encode(),
        arguments.num_bytes,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    sys.stdout.write(text.decode("utf-8", "replace") + "\n")


if __name__ == "__main__":
    main()
