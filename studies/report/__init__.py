"""The page, figures and tables of a comparison.

Imports comparison and below; trains nothing and asks no server.
"""
