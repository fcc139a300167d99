"""From something that was opened to what it answers: a fitted folder in its own runtime, a loaded model in torch."""

from collections.abc import Callable

import numpy as np

from foveate.artefact import Artefact
from foveate.evaluate.answers import reference_outputs
from foveate.loading.load import Loaded
from foveate.preprocess import Preprocess


def answering(opened: Artefact | Loaded) -> tuple[Callable[[np.ndarray], np.ndarray], Preprocess]:
    """Preprocessed images -> outputs, and the preprocessing."""
    if isinstance(opened, Artefact):
        return opened, opened.preprocess
    return lambda x: reference_outputs(opened.model, x), opened.preprocess
