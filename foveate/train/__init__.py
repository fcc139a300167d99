"""Training: a recipe says what, a task says which losses, the loop knows neither the model nor the losses.

from foveate.train import Classify, Recipe, train

recipe = Recipe(model="vit_tiny_patch16_224", data="photos/", epochs=10, batch=64, lr=1e-3)
print(train(recipe, "runs/mine").best_score)
"""

from foveate.train.imitate import Imitate as Imitate
from foveate.train.loop import Trained as Trained
from foveate.train.loop import train as train
from foveate.train.recipe import Augment as Augment
from foveate.train.recipe import Recipe as Recipe
from foveate.train.recipe import load_recipe as load_recipe
from foveate.train.tasks import Classify as Classify
from foveate.train.tasks import Distil as Distil
from foveate.train.tasks import Incremental as Incremental
from foveate.train.tasks import MatchTokens as MatchTokens
from foveate.train.tasks import Segment as Segment
from foveate.train.tasks import Task as Task
from foveate.train.tasks import Through as Through
