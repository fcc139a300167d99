"""Token budgets on Hugging Face's models that see.

    import foveate.vlm

    foveate.vlm.apply(model, budget=0.2)     # a fifth of each picture's tokens, by HiRED
    model.generate(**inputs)                 # as before
    foveate.vlm.remove(model)

`kept(model)` says what stayed of the pictures of the last call.
"""

from foveate.vlm import internvl, llava, llava_next, qwen  # noqa: F401  (registration)
from foveate.vlm._base import FAMILIES as FAMILIES
from foveate.vlm._base import Family as Family
from foveate.vlm._base import family_of as family_of
from foveate.vlm.applying import Reduced as Reduced
from foveate.vlm.applying import applied_to as applied_to
from foveate.vlm.applying import apply as apply
from foveate.vlm.applying import reduce as reduce
from foveate.vlm.applying import remove as remove
