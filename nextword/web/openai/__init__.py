"""OPENAI'S PROTOCOL: requests, prompts, tool calls, streams.

In: the JSON of a request; out: the bytes of an answer. The studio is not imported here.
"""
