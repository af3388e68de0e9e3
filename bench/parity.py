"""The real SmolLM2-135M-Instruct (Q4_1 GGUF): do we compute what others compute on the same weights?

    python bench/parity.py            (needs the extras: pip install '.[test,peers]')

Referees: transformers in float32 on the dequantized weights, exported by nextword; llama.cpp on the same file.
llama.cpp rounds activations to 8 bits, so its logits, and sooner or later its greedy text, differ from the exact
ones; what is compared is how often its most probable token is ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import nextword
from nextword.parameters.export import export_hf
from nextword.parameters.open import open_stored
from nextword.parameters.pull import pull
from nextword.sample.settings import Sampling

TEXT = """The old lighthouse keeper climbed the spiral stairs every evening just before sunset. He carried a small
lamp in one hand and a worn notebook in the other, where he wrote down the weather, the ships he saw, and anything
that seemed unusual. For thirty years nothing much had happened. Storms came and went, gulls nested on the railing,
and the light turned faithfully above the dark water. But on the first night of November he noticed something new: a
second light, far out at sea, blinking back at him in the same rhythm. He counted the flashes twice to be sure. Three
short, one long, three short. It was the signal his father had taught him as a boy, the one they used when the fog
was too thick to see the shore. His father had been gone for twenty years. The keeper set the notebook down, took a
deep breath, and reached for the switch that controlled the great lamp. If someone was out there, he would answer
them, whatever it cost him, and he would keep on answering until the morning came."""
PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "She ate an apple",
    "def fibonacci(n):",
    "In 1969, the first",
    "The three primary colors are",
    "Dear Sir or Madam,",
    "Water boils at",
    "My favorite book is",
    "To make bread, you need",
    "The derivative of x^2 is",
    "It was a dark and stormy",
    "The mitochondria is",
    "Roses are red,",
    "Q: What is 2 + 2?\nA:",
    "Breaking news:",
    "The dog chased the",
    "According to the theory of evolution,",
    "import numpy as np\n",
    "Ladies and gentlemen,",
]


def main() -> None:
    path = pull("smollm2")
    gpt = nextword.open(path)
    ids = gpt.encode(TEXT)[:200]
    ours = gpt.engine.open_session().feed_all(ids)
    with tempfile.TemporaryDirectory() as folder:
        export_hf(open_stored(path), Path(folder) / "hf")
        model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=torch.float32)
    against_transformers(gpt, model, ids, ours)
    against_llama_cpp(path, ids, ours)


def against_transformers(
    gpt: nextword.GPT, model: transformers.PreTrainedModel, ids: list[int], ours: np.ndarray
) -> None:
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    print(f"logits, {len(ids)} tokens, transformers fp32: max abs diff {np.abs(ours - theirs).max():.2e} (goal 1e-3)")
    equal = 0
    for prompt in PROMPTS:
        written = gpt.generate(prompt, max_tokens=64, sampling=Sampling(temperature=0)).finish()
        row = torch.tensor([gpt.encode(prompt)])
        with torch.no_grad():
            expected = model.generate(
                row,
                attention_mask=torch.ones_like(row),
                max_new_tokens=64,
                do_sample=False,
                pad_token_id=0,
            )[0, row.shape[1] :].tolist()
        mine = [token.id for token in written.tokens]
        equal += mine == expected
        if mine != expected:
            print(f"  differs: {prompt!r} after {sum(a == b for a, b in zip(mine, expected, strict=False))} tokens")
    print(f"greedy text, 64 tokens, transformers fp32: {equal} of {len(PROMPTS)} prompts equal (goal all)")


def against_llama_cpp(path: Path, ids: list[int], ours: np.ndarray) -> None:
    try:
        import llama_cpp
    except ImportError:
        print("llama.cpp: not installed (pip install '.[peers]')")
        return
    llama = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False)
    llama.eval(ids)
    theirs = np.array(llama.scores[: len(ids)])
    agreement = (theirs.argmax(1) == ours.argmax(1)).mean()
    print(f"top-1 agreement, {len(ids)} tokens, llama.cpp {llama_cpp.__version__}: {agreement:.1%} (goal 95 %)")


if __name__ == "__main__":
    main()
