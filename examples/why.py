"""Why this word? The components of one token's logit, each tested by ablating it and running the model again."""

import nextword

gpt = nextword.open()
prompt, word = "Tom had a dog. The dog was called Rex. Tom loved his", " dog"
why = gpt.explain(prompt, word, count=8)
print(f"{prompt} ...{word}: {why.probability:.1%}; contributions to {why.about()}\n")
assert why.audit is not None
for finding in why.audit.findings:
    verdict = "holds" if finding.holds else "FAILS"
    print(f"{finding.claim:+6.2f}  ablated: {-finding.measured:+6.2f}  {verdict}  {why.words(finding.component)}")
print(f"\nunaccounted for: {why.claims.remainder:.1e}")
