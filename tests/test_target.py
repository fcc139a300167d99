"""Where a model runs: one value that checks itself, and what older files said of it."""

import pytest
from pydantic import ValidationError

from foveate.errors import InputError
from foveate.plans import ModelRef, Plan
from foveate.target import Target, lifted


def test_fields_of_the_first_schema_become_a_target():
    old = {"schema_version": 1, "planner": "pareto", "runtime": "openvino", "batch": 4}
    assert lifted(old) == {"schema_version": 2, "planner": "pareto", "target": {"runtime": "openvino", "batch": 4}}
    new = {"schema_version": 2, "target": {}}
    assert lifted(new) is new and lifted("no file") == "no file"


def test_a_plan_takes_its_targets_fields_plainly():
    ref = ModelRef(name="tiny", weights="random", tokens=5, depth=2, prefix=1)
    named = Plan(model=ref, steps=(), target=Target(runtime="onnxruntime", batch=2))
    assert Plan(model=ref, steps=(), runtime="onnxruntime", batch=2) == named
    with pytest.raises(ValidationError):
        Plan(model=ref, steps=(), target=Target(), runtime="onnxruntime")
    with pytest.raises(ValidationError):
        Plan(model=ref, steps=(), runtime="onnxruntime", precision="fp3")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("batch", 0, "1 to 4096"), ("threads", 100_000, "1 to 1024"), ("device", "tpu", "cpu, cuda or cuda:N")],
)
def test_what_is_out_of_range_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(InputError, match=rf"--{field} is {value!r}.*{allowed}"):
        Target.of(**{field: value})


def test_a_device_has_a_kind_and_a_number():
    assert (Target(device="cuda:3").kind, Target(device="cuda:3").index, Target().index) == ("cuda", 3, 0)


def test_an_unknown_name_is_told_in_a_short_line():
    """A plan of somebody else's may name a runtime of a hundred thousand letters."""
    from foveate.runtimes import RUNTIMES

    with pytest.raises(InputError) as caught:
        RUNTIMES["x" * 100_000]
    assert len(str(caught.value)) < 300 and "..." in str(caught.value)
