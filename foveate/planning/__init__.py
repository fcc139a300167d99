"""Score reduction plans on real images, and search for the best ones."""

from foveate.planning.candidate import Candidate as Candidate
from foveate.planning.evaluator import Evaluator as Evaluator
from foveate.planning.evaluator import Score as Score
from foveate.planning.pomt import plan_pomt as plan_pomt
from foveate.planning.search import plan_candidates as plan_candidates
