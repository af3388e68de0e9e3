"""PAGES WITHOUT A SERVER: a receipt as a file, a notebook's cells, and the custom elements that draw both.

In: a receipt's JSON; out: HTML that loads nothing from elsewhere. No server is imported here.
"""
