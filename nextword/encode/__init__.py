"""text -> TOKENS: tokenizers, OpenAI encodings, chat templates."""
