"""kill -9 at any moment of all that writes, and both signals: nothing half-written, nothing lost, nobody left."""

import shutil
import signal
import time

import pytest

from campaign import whole
from campaign.asked import EXPORT, FASTER, PROFILE, STAGES
from campaign.tally import Tally, dice, tally, trials
from campaign.warm import Child, Place
from foveate.staging import GRACE_S

pytestmark = pytest.mark.slow


def swept(warm, place: Place, args) -> str | None:
    """What a killed run left is gone once the next one of the kind has run."""
    time.sleep(GRACE_S + 1)
    child = warm.run(args, place, seconds=300)
    if child.code not in (0, 3):
        return f"the next run ended with {child.code}: {child.said}"
    left = place.leftovers()
    return f"left lying: {left}" if left else None


def into(stage: str, child: Child, found: Tally) -> None:
    """Wait for a fit's stage; the row tells how many trials of each came that far."""
    name = f"in {stage}"
    found.facts[name] = int(found.facts.get(name, 0)) + child.reached(stage)


def test_kills_of_fit(warm, fitted, place):
    """At every stage, over a folder of an earlier fit and where there was none."""
    with tally("kill -9 of fit") as found:
        random = dice("kill fit")
        first = warm.run([*FASTER, "--out", "first"], place, seconds=300)
        assert first.code in (0, 3), first.said
        for i in range(trials(7)):
            stage, old = STAGES[i % len(STAGES)], i % 2 == 0
            out = place.fresh(fitted) if old else place.root / "out"
            if not old:
                shutil.rmtree(out, ignore_errors=True)
            before = whole.digest(out) if old else None
            child = warm.start([*FASTER, *(["--fresh"] * (stage == "profile")), "--out", "out"], place)
            into(stage, child, found)
            time.sleep(random.uniform(0, 0.05 if stage == "write" else 0.6))
            child.send(signal.SIGKILL)
            child.wait(60)
            fault = whole.either(out, before) or whole.cache(place.root / "cache")
            fault = fault or next((f"orphan: {o}" for o in child.orphans()), None)
            found.count(fault and f"trial {i}, killed in {stage}: {fault}")
        shutil.rmtree(place.root / "out", ignore_errors=True)
        found.count(swept(warm, place, [*FASTER, "--out", "out"]))


def test_kills_of_export(warm, fitted, place):
    with tally("kill -9 of export") as found:
        random, args = dice("kill export"), [*EXPORT, str(fitted), "--out", "out"]
        whole_run = warm.run(args, place)
        assert whole_run.code == 0, whole_run.said
        seconds = time.monotonic() - whole_run.began
        for i in range(trials(113)):
            out, old = place.root / "out", i % 2 == 0
            if not old:
                shutil.rmtree(out, ignore_errors=True)
            elif not (out / "plan.json").exists():
                place.fresh(fitted)
            before = whole.digest(out) if old else None
            child = warm.start(args, place)
            time.sleep(random.uniform(0, 1.05 * seconds))
            child.send(signal.SIGKILL)
            child.wait(60)
            fault = whole.either(out, before) or next((f"orphan: {o}" for o in child.orphans()), None)
            found.count(fault and f"trial {i}: {fault}")
        found.count(swept(warm, place, args))


def test_kills_of_train(warm, lesson, place):
    """Killed and resumed it ends with the digits of a run that nothing disturbed, and its card is of its weights."""
    with tally("kill -9 of train") as found:
        random, recipe = dice("kill train"), lesson / "recipe.py"
        reference = warm.run(["train", recipe, "--out", "reference"], place)
        assert reference.code == 0, reference.said
        seconds = time.monotonic() - reference.began
        wanted = whole.digest(place.root / "reference")["best.safetensors"]
        for i in range(trials(75)):
            out = place.root / "out"
            shutil.rmtree(out, ignore_errors=True)
            child = warm.start(["train", recipe, "--out", "out"], place)
            time.sleep(random.uniform(0, seconds))
            child.send(signal.SIGKILL)
            child.wait(60)
            fault = next((f"orphan: {o}" for o in child.orphans()), None)
            more = ["--resume"] if (out / "last.pt").exists() else []
            if not more and not any(out.glob("*")):
                shutil.rmtree(out, ignore_errors=True)
            again = warm.run(["train", recipe, "--out", "out", *more], place)
            if again.code != 0:
                fault = f"resuming ended with {again.code}: {again.said}"
            elif whole.digest(out)["best.safetensors"] != wanted:
                fault = "other weights than the undisturbed run's"
            found.count(fault and f"trial {i}: {fault}")
        found.count(swept(warm, place, ["train", recipe, "--out", "out", "--resume"]))


def test_kills_of_profile(warm, place):
    with tally("kill -9 of profile") as found:
        random, args = dice("kill profile"), [*PROFILE, "--out", "profile.json"]
        first = warm.run(args, place)
        assert first.code == 0, first.said
        seconds, text = time.monotonic() - first.began, (place.root / "profile.json").read_bytes()
        for i in range(trials(5)):
            child = warm.start(args, place)
            time.sleep(random.uniform(0, 1.05 * seconds))
            child.send(signal.SIGKILL)
            child.wait(60)
            fault = whole.cache(place.root / "cache") or next((f"orphan: {o}" for o in child.orphans()), None)
            now = (place.root / "profile.json").read_bytes()
            if fault is None and now != text:
                fault = None if now.rstrip().endswith(b"}") else "half a profile.json"
                text = now
            found.count(fault and f"trial {i}: {fault}")
        found.count(swept(warm, place, args))


@pytest.mark.parametrize("name", ["fit", "export", "profile", "train"])
def test_signals(warm, fitted, lesson, place, name):
    """Ctrl-C and SIGTERM: within five seconds, one line, 130 or 143, nothing left and nobody."""
    commands = {
        "fit": [*FASTER, "--out", "out"], "export": [*EXPORT, str(fitted), "--out", "out"],
        "profile": [*PROFILE, "--out", "profile.json"], "train": ["train", lesson / "workers.py", "--out", "out"],
    }  # fmt: skip
    with tally(f"Ctrl-C and SIGTERM in {name}") as found:
        random = dice(f"signals {name}")
        whole_run = warm.run(commands[name], place, seconds=300)
        assert whole_run.code in (0, 3), whole_run.said
        seconds = time.monotonic() - whole_run.began
        for i in range(trials({"fit": 14, "export": 20, "profile": 4, "train": 22}[name])):
            number = (signal.SIGINT, signal.SIGTERM)[i % 2]
            shutil.rmtree(place.root / "out", ignore_errors=True)
            stage = STAGES[i // 2 % len(STAGES)]
            child = warm.start([*commands[name], *(["--fresh"] * (name == "fit" and stage == "profile"))], place)
            if name == "fit":
                into(stage, child, found)
                time.sleep(random.uniform(0, 0.3))
            else:
                time.sleep(random.uniform(0.1, 0.95) * seconds)
            sent = time.monotonic()
            child.send(number)
            try:
                code = child.wait(30)
            except TimeoutError as e:
                found.count(f"trial {i}: {e}")
                continue
            took, fault = time.monotonic() - sent, None
            if code in (0, 3, -number) and (name == "profile" or "written" in child.said):
                pass  # it was done before, and on its way out
            elif code != 128 + number:
                fault = f"ended with {code}: {child.said}"
            elif took > 5:
                fault = f"took {took:.1f} s"
            elif "Traceback" in child.said or child.said.count("stopped; nothing half-written") != 1:
                fault = f"said {child.said}"
            elif left := place.leftovers():
                fault = f"left {left}: {child.said}"
            fault = fault or next((f"orphan: {o}" for o in child.orphans(5)), None)
            found.count(fault and f"trial {i}, {signal.Signals(number).name}: {fault}")
