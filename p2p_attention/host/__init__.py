"""The only folder that knows ComfyUI: how its prompts are read, its models patched, its sampling runs taken part in.

A patched model carries nothing but its frozen works (edits, blends, recorders, ...) and one wrapper around the sampling
run. Everything else (the rows, the attention patches, the shared noise, the previews) is put into the run's own copy of
the model options when sampling starts, and goes with it.
"""

KEY = "prompt_to_prompt"  # our name in the host's dictionaries
