"""One judge a kind of output: the only place where outputs become answers.

A new kind is one file here, registered by its name, and its class's name below.
"""

from foveate.evaluate.judges._base import JUDGES as JUDGES
from foveate.evaluate.judges._base import Judge as Judge
from foveate.evaluate.judges._base import Quality as Quality
from foveate.evaluate.judges._base import Words as Words
from foveate.evaluate.judges._base import make_judge as make_judge
from foveate.evaluate.judges._base import shown as shown
from foveate.evaluate.judges._base import sound as sound
from foveate.evaluate.judges.classes import Classes as Classes
from foveate.evaluate.judges.embedding import Embedding as Embedding
from foveate.evaluate.judges.embedding import nearest as nearest
from foveate.evaluate.judges.masks import Masks as Masks
