"""Trainable architectures, one folder each, in timm's registry once this is imported."""

from foveate.models import dense as dense
from foveate.models import iret as iret
from foveate.models import reparameterized as reparameterized
from foveate.models import segmenter as segmenter
from foveate.models import vittm as vittm
