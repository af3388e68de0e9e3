"""What comes next? The bundled model's probability of every next token, and what the sampling filters take away."""

import nextword

gpt = nextword.open()
for prompt in ("Once upon a", "The king and the", '"I am so happy," said'):
    print(f"\n{prompt!r}")
    for row in gpt.predict(prompt, nextword.Sampling(top_p=0.5)).top(5):
        kept = f"kept at {row.filtered_probability:.0%}" if row.removed_by is None else f"removed by {row.removed_by}"
        print(f"  {row.probability:6.1%}  {row.token!r:14} {kept}")
