"""Prompt-to-Prompt: edit an image by editing its prompt (Hertz et al., ICLR 2023, arXiv:2208.01626).

Imports run one way: ``host -> run, blend, invert, guidance, null_text, preview -> record -> maps -> edit -> attention,
align -> prompt``, and ``show -> record, sheet``. Only ``host`` knows ComfyUI; everything else is torch and the standard
library, and Pillow in ``sheet``.
"""
