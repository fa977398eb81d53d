"""What works on the pack and is not shipped with it: the server, pictures for docs, the demo model's training.

Run as modules from the repository's root (``python -m tools.gallery``), which ``dev.py`` does.
"""
