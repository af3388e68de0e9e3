"""BELOW ALL FOLDERS: files that appear whole, words for sizes, HTML that holds any text.

In: paths, numbers and strings of anybody's; out: the same on disk, for people, or in a page. Nothing of nextword but
its errors is imported here.
"""
