"""Prompt-to-Prompt for ComfyUI: edit an image by editing its prompt."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, not above: tools that merely look at the package (pytest does) have no ComfyUI to import.
    from comfy_api.latest import ComfyExtension

    from .demo.node import DemoPicture, LoadDemoModel
    from .nodes.alignment_route import add_alignment_route
    from .nodes.blend import LocalBlendMask, ShowBlendMask
    from .nodes.compare import Compare
    from .nodes.composite import Composite
    from .nodes.docs_route import add_docs_route
    from .nodes.edit import AttentionRefine, AttentionReplace, ReweightToken
    from .nodes.grid import Grid
    from .nodes.invert import DDIMInvert, NullTextOptimize, ProximalGuidance
    from .nodes.maps import AttentionMaps, RecordAttention
    from .nodes.one_edit import OneEdit
    from .nodes.pick import PickPictures
    from .nodes.prompt_pair import PairFromConditioning, PromptPair
    from .nodes.second_pass import SecondPass
    from .p2p_attention.host.prompt_watch import watch_prompts

    add_alignment_route()
    add_docs_route()
    watch_prompts()

    class PromptToPromptExtension(ComfyExtension):
        async def get_node_list(self):
            return [
                OneEdit,
                PromptPair,
                PairFromConditioning,
                AttentionReplace,
                AttentionRefine,
                ReweightToken,
                LocalBlendMask,
                ShowBlendMask,
                RecordAttention,
                AttentionMaps,
                Compare,
                Composite,
                Grid,
                SecondPass,
                PickPictures,
                DDIMInvert,
                ProximalGuidance,
                NullTextOptimize,
                LoadDemoModel,
                DemoPicture,
            ]

    return PromptToPromptExtension()
