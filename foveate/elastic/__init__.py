"""One model, many operating points: what each costs on this device, and who chooses among them at run time."""

from foveate.elastic.frontier import Frontier as Frontier
from foveate.elastic.frontier import Point as Point
from foveate.elastic.policy import Battery as Battery
from foveate.elastic.policy import Confident as Confident
from foveate.elastic.policy import Deadline as Deadline
from foveate.elastic.policy import Demand as Demand
from foveate.elastic.policy import Fixed as Fixed
from foveate.elastic.policy import Policy as Policy
from foveate.elastic.policy import Power as Power
