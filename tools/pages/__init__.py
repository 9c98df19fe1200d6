"""The documentation site: `python -m tools.pages` writes its pages to build/pages and builds it in build/site."""
