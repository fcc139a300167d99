"""Score reduction plans on real images, and search for the best ones."""

from foveate.planning.evaluator import Evaluator as Evaluator
from foveate.planning.evaluator import Score as Score
from foveate.planning.search import Candidate as Candidate
from foveate.planning.search import plan_candidates as plan_candidates
