"""The pages, what writes some of them (`docs.generate`), and how the site is built."""
