"""The same seed writes the same story, another seed another one; and the least expected word of each."""

import nextword

gpt = nextword.open()
for seed in (1, 2):
    writing = gpt.generate("Once upon a time", max_tokens=80, seed=seed)
    text = "".join(step.text for step in writing)
    rarest = min(writing.tokens, key=lambda choice: choice.probability)
    print(f"seed {seed}: Once upon a time{text}")
    print(f"  least expected: {gpt.decode([rarest.id])!r}, {rarest.probability:.1%}")
    print(f"  {writing.tokens_per_second:,.0f} tokens/s\n")
again = gpt.generate("Once upon a time", max_tokens=80, seed=2)
assert "".join(step.text for step in again) == text
