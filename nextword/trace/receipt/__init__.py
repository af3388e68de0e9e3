"""THE RECEIPT: one JSON value of all reasons for a token, and its replay.

In: what the other rooms of trace found; out: JSON, and for each number in it whether it holds. No page is imported
here.
"""
