"""Our works on a clone of a model, and a clone without them."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP

from ..blend import Blend
from ..edit import Edit
from ..guidance import Proximal
from ..invert import Inversion
from ..record import Recorder
from ..second_pass import Continuation
from . import KEY
from .families import family_of
from .refusals import require_one_blend, require_way
from .sampling_run import sampling_run

Work = Edit | Blend | Recorder | Proximal | Continuation | Inversion  # what a patched model carries


def attach(model: Any, work: Work) -> Any:
    """A clone of the model that carries one more piece of work; the model itself is left as it is.

    Raises:
        ValueError: the model is of no family that can be edited, the pair was made by another model's text encoder, or
            an edit would have two blends.
    """
    family_of(model).require(model, None if isinstance(work, Inversion) else work.pair)
    if isinstance(work, Edit):
        require_way(work, family_of(model).ways)
    patched = model.clone()
    works = works_on(patched)
    if isinstance(work, Inversion):  # a picture has one way back; the last node counts
        works = tuple(each for each in works if not isinstance(each, Inversion))
    works = (*works, work)
    require_one_blend(works)
    patched.model_options[KEY] = works
    if not patched.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sampling_run)
    return patched


def works_on(model: Any) -> tuple[Work, ...]:
    """What a model carries, in the order of the nodes."""
    return model.model_options.get(KEY, ())


def without_works(model: Any) -> Any:
    """A clone of the model as if none of our nodes were there."""
    bare = model.clone()
    bare.model_options.pop(KEY, None)
    bare.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    return bare
