"""HTTP AND PAGES: OpenAI's API, the studio, and pages that need no server.

In: requests about opened models, and receipts; out: JSON, streams of events, HTML. Of the other folders only `cli` may
import this one.
"""
