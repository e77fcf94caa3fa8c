"""Text: tokenizers and chat templates, files of rows and the filters that they pass."""
