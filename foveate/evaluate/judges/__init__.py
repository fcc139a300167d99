"""One judge a kind of output: the only place where outputs become answers."""

from foveate.evaluate.judges._base import JUDGES as JUDGES
from foveate.evaluate.judges._base import Judge as Judge
from foveate.evaluate.judges._base import Quality as Quality
from foveate.evaluate.judges._base import Words as Words
