"""ViTTM: process and memory tokens. See `model` for what it is, `variants` for the names in timm's registry."""

from foveate.models.vittm import variants as variants
from foveate.models.vittm.heads import FUSIONS as FUSIONS
from foveate.models.vittm.heads import HEADS as HEADS
from foveate.models.vittm.model import NORMS as NORMS
from foveate.models.vittm.model import OUTPUTS as OUTPUTS
from foveate.models.vittm.model import Streams as Streams
from foveate.models.vittm.model import ViTTM as ViTTM
from foveate.models.vittm.weights import from_authors as from_authors
from foveate.models.vittm.weights import process_only as process_only
from foveate.models.vittm.weights import retrofit as retrofit
