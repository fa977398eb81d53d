"""Prompt-to-Prompt: edit an image by editing its prompt (Hertz et al., ICLR 2023, arXiv:2208.01626).

Imports run one way: ``patcher -> run, blend, record -> edit, maps -> attention, align -> prompt``.
Only ``patcher`` knows ComfyUI; everything else is torch and the standard library.
"""
