"""PAGES WITHOUT A SERVER: a receipt as a file, a notebook's cells, and the components that draw them.

In: a receipt's JSON; out: HTML that asks for nothing from elsewhere. No server is imported here.
"""
