"""The documents as a site: the pages that are checked in, a page for every method, and what MkDocs is told.

`python -m handbook FOLDER` writes it all into a folder; `make docs` builds that into `dist/site`.
"""
