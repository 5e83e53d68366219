"""Specs for readers in other languages to judge as Python's does: sound, broken, hostile, and a thousand damaged."""

import json
import random
from pathlib import Path

from test_spec import HUGE, INVALID, SPEC, values

from ddpm_export.errors import DdpmExportError
from ddpm_export.model.spec_json import json_from_spec, spec_from_json

ATTACKS = Path(__file__).parents[1] / "golden" / "spec_attacks"
MAX_CHARACTERS = 2500  # of a text in a file; what is larger comes from `specs`
EVERY = 20  # one in so many of the damaged texts
DEFAULTS = values()["defaults"]
ROW = [3, 0.1, [0.5], [0.25], []]
LABEL = {"name": "y", "kind": "label", "shape": [], "none": 2, "classes": ["cat", "dog"]}
VECTOR = {"name": "w", "kind": "vector", "shape": [5], "none": 0.5}
PREVIOUS = {"name": "x_0_prev", "kind": "previous", "shape": [3, 8, 16], "none": None}
IMAGE = {"name": "hint", "kind": "image", "shape": [1, 2, 2], "none": None}


def plan_changes():
    """Plans, most of them not usable; the first four are."""
    many = [[3, 0.1, [0.5], [0.25], []]] * 3
    yield from (
        {"rows": [ROW]},
        {"start": 2, "rows": many},
        {"rows": [[3, 0, [], [1], [0.5]], [3, 0.5, [1, 2], [], []]]},
    )
    yield {"rows": [[i % 4, 0.5, [0] * min(i + 1, 16), [], []] for i in range(40)], "later": 1}
    yield from (None, [], {}, {"rows": None}, {"rows": []}, {"rows": [ROW], "start": 0}, {"rows": [ROW], "start": None})
    yield from ({"rows": [ROW], "start": start} for start in (-1, "1", True, HUGE, 1e300))
    yield from ({"rows": [ROW], "raw_eps": value} for value in (True, False, None, 1, "true"))
    places = [
        *((0, t) for t in (-1, 4, 2.0, 2.5, None, "3", True, HUGE)),
        *((1, a) for a in (-0.1, 1, 1.5, None, "0", False, HUGE)),
        *((k, numbers) for k in (2, 3) for numbers in (None, 1, ["1"], [None], [True], [HUGE], [[1]], [0.5, 0.5])),
        *((4, noise) for noise in (None, [0], [-1], [0.5, 0], [0.5, 0.5, 0.5], [HUGE], 0.5, ["x"], [0.5, 0.75])),
    ]
    yield from ({"rows": [[*ROW[:k], value, *ROW[k + 1 :]]]} for k, value in places)
    yield from ({"rows": [row]} for row in (None, {}, [], ROW[:4], [*ROW, 1], [3, 0.1, [], [], []]))
    yield {"rows": [[i % 4, 0.5, [0] * (i + 1), [], []] for i in range(17)]}
    yield {"rows": [[0, 0.5, [0], [], []]] * 10_001}


def input_changes():
    """Lists of inputs, most of them not usable; the first three are."""
    yield from ([LABEL], [VECTOR, IMAGE, PREVIOUS, {**LABEL, "none": None}], [{**IMAGE, "none": -1, "later": 0}])
    yield from (None, {}, "y", [], [1], [None], [{}], [LABEL, LABEL], [VECTOR, {**IMAGE, "name": "w"}])
    yield from ([{key: value for key, value in LABEL.items() if key != gone}] for gone in LABEL)
    yield from ([{**LABEL, "name": name}] for name in (None, 1, "", "x_t", "t", "label", "1y", "y z", "é", "x-y"))
    yield from (
        [{**VECTOR, "name": name}] for name in ("y", "x_0_prev", "t", "_1", "Az_9", "größe", "w\u0000", "a" * 300, "²")
    )
    yield from ([{**VECTOR, "name": name}] for name in ("a.b", "a.b_2.c", ".a", "a.", "a..b", "a.1"))
    yield from ([{**VECTOR, "kind": kind}] for kind in (None, 1, "", "label", "image", "previous", "Vector"))
    yield from ([{**LABEL, "shape": shape}] for shape in (None, 1, [1], [2, 2]))
    shapes = (None, [], [0], [-1], [2.0], [True], ["2"], [2, 2], [2**26], [2**26 + 1], [HUGE], [1, 1, 1])
    yield from ([{**VECTOR, "shape": shape}] for shape in shapes)
    yield from ([{**IMAGE, "shape": shape}] for shape in ([1], [2**20, 2**20, 2**20], [2**9, 2**9, 2**8], [0, 1, 1]))
    yield from ([{**PREVIOUS, "shape": shape}] for shape in ([3, 16, 8], [], [3, 8]))
    yield from ([{**LABEL, "none": none}] for none in (-1, 0, 1, 3, 1.0, "2", True, [], HUGE))
    yield from ([{**VECTOR, "none": none}] for none in ("0", True, [], 1, -0.5))
    classes = (None, {}, [], [1], ["a", None], ["a", "a"], ["a"] * 5000, [str(k) for k in range(4096)])
    yield from ([{**LABEL, "classes": names}] for names in (*classes, [str(k) for k in range(4097)], ["", "\x07"]))
    yield [{**VECTOR, "classes": ["a"]}]


def guidance_changes():
    """Guidance of a file, and networks that can do something with it or nothing; the first three are sound."""
    requires = ["inputs", "guidance"]

    def guided(guidance, *inputs):
        return {"defaults": {**DEFAULTS, "guidance": guidance}, "inputs": [*inputs], "requires": requires}

    own = {"name": "guidance", "kind": "vector", "shape": [1], "none": 1.0}
    yield from (guided({"scale": 2}, LABEL), guided({"scale": 0.5, "interval": [0, 2.5], "later": 1}, own, VECTOR))
    yield guided({"scale": 1}, own, LABEL)
    scales = (0, 1, 100, 100.5, -0.0, -1e-9, 1e300, HUGE, 10**400, True, None, "2", [2], {})
    yield from (guided({"scale": scale}, LABEL) for scale in scales)
    intervals = ([0, 0], [3, 2], [-1, 2], [0, 1e300], [0, 10**400], [1], [1, 2, 3], [1, "2"], [True, 2], "ab", None, {})
    yield from (guided({"scale": 2, "interval": interval}, LABEL) for interval in intervals)
    yield from (guided(guidance, LABEL) for guidance in (None, 2, [], "2", True, {}, {"interval": [0, 1]}))
    yield from (guided({"scale": 2}, *inputs) for inputs in ((), (VECTOR,), ({**LABEL, "none": None},)))
    changed = [{"kind": "image", "shape": [1, 1, 1]}, {"shape": [2]}, {"shape": [1.0]}, {"shape": []}, {"none": 2}]
    changed += [{"none": None}, {"none": 1}, {"none": True}, {"kind": "label", "classes": ["a"]}, {"classes": ["a"]}]
    yield from (guided({"scale": 2}, LABEL, {**own, **change}) for change in changed)
    yield {**guided({"scale": 2}, LABEL), "requires": ["inputs"]}
    yield {"inputs": [LABEL], "requires": requires}
    yield {**guided({"scale": 2}, LABEL), "graph": "sampler"}


def shape_changes():
    """Shapes of states that are no pictures; the first four, and what follows with inputs, are sound."""
    no_picture = {"image_shape": ..., "requires": ["shape"]}
    shapes = ([5], [16, 2], [1, 4, 5, 6], [2**26], [1, 2, 3], [], [1] * 5, [0], [4, 0], [-1], [2.0], ["2"], [True])
    shapes += ([2**26 + 1], [2**13, 2**14], [2**9] * 4, [HUGE], None, 5, {}, [[1]], ...)
    yield from ({**no_picture, "state_shape": shape} for shape in shapes)
    yield from ({"state_shape": [5], "requires": requires} for requires in ([], ["shape"]))
    yield from ({"image_shape": shape} for shape in ([5], [16, 2], [1, 4, 5, 6], [1, 2, 0]))
    yield from ({"requires": ["shape"]}, {"image_shape": ..., "state_shape": [1, 2, 3]})
    both = {**no_picture, "state_shape": [16, 2], "requires": ["shape", "inputs"]}
    inputs = [{**IMAGE, "shape": shape} for shape in ([3], [4, 2], [1, 2, 2], [1, 2, 3, 4], [1] * 5, [])]
    inputs += [{**PREVIOUS, "shape": shape} for shape in ([16, 2], [2, 16], [16], [1, 16, 2])]
    yield from ({**both, "inputs": [one]} for one in (*inputs, LABEL, VECTOR, {**VECTOR, "shape": [2, 2]}))


def stage_changes():
    """Units, stages and limits; the first five are sound."""
    shape, named = [3, 8, 16], {"file": "a.onnx", "sha256": "0" * 64}
    after, encode = {"outputs": {"images": [3, 16, 32]}}, {"outputs": {"x": shape}}
    units = {"scale": [0.5, 2, -1], "shift": [0.1], "axis": 0}
    both = {"stages": {"after": {**after, **named}, "encode": encode}, "units": units}
    yield {**both, "requires": ["stages", "units"]}
    yield from ({"stages": {"after": {"outputs": {"values": size}}}, "requires": ["stages"]} for size in ([4], [2] * 4))
    yield from ({"stages": {"encode": encode}}, {"stages": None, "units": None})
    yield from ({**both, "requires": names} for names in ([], ["stages"], ["units"]))
    for name, changed in (("scale", [0, 1, 1]), ("scale", []), ("shift", [1, 2]), ("shift", ["1"]), ("shift", [1e7])):
        yield {"units": {**units, name: changed}, "requires": ["units"]}
    for axis in (-1, 3, 1.0, True, None, 1):
        yield {"units": {**units, "axis": axis}, "requires": ["units"]}
    yield from ({"units": value, "requires": ["units"]} for value in ([], 1, {}, {"scale": [1], "shift": [0]}))
    outputs = (
        {},
        [],
        None,
        {"images": [16, 32]},
        {"images": [1, 16, 0]},
        {"values": [2] * 5},
        {"x": shape},
        {"y": [2]},
    )
    outputs += ({"images": [3, 16, 32], "values": [2]}, {"values": [1.0]}, {"values": [2**27]}, {"values": [True]})
    yield from ({"stages": {"after": {"outputs": value}}, "requires": ["stages"]} for value in outputs)
    yield from ({"stages": value, "requires": ["stages"]} for value in ([], 1, {"after": None}, {"other": after}))
    yield from ({"stages": {"encode": {"outputs": {"x": size}}}} for size in ([3, 8], [3, 8, 8], [3.0, 8, 16]))
    before = {"outputs": {"w": [5]}, "inputs": [{**VECTOR, "name": "s"}, {**IMAGE, "name": "c", "shape": [2, 3, 8, 8]}]}

    def given(change=(), requires=("inputs", "stages")):
        stage = {key: value for key, value in {**before, **dict(change)}.items() if value is not ...}
        return {"inputs": [VECTOR, LABEL], "stages": {"before": stage}, "requires": [*requires]}

    yield from (given(), given({"file": "b.onnx", "sha256": "0" * 64}), given({"later": 1}), given(requires=["inputs"]))
    outputs = ({}, [], ..., {"w": [4]}, {"w": [5.0]}, {"y": []}, {"v": [5]}, {"w": [5], "v": [5]}, {"w": 5})
    yield from (given({"outputs": value}) for value in outputs)
    yield from (given({"inputs": value}) for value in (..., [], None, {}, [{}], [{**VECTOR, "shape": [5.0]}], [VECTOR]))
    yield from (
        {"stages": {"after": {**after, "inputs": [*value]}}, "requires": ["stages"]} for value in ([], [VECTOR])
    )
    ends = ([[0], [1]], [[0] * 5, [1] * 5], [], [[0]], [[0], [1] * 5], [[0] * 4, [1] * 4], [[], []], [[0], [None]])
    for limits in (*ends, [[0], [True]], [[0], [HUGE]], [0, 1], None, {}, "ab", [[0], [1], [2]], [[1], [0]]):
        yield {"inputs": [{**VECTOR, "limits": limits}], "requires": ["inputs"]}
        yield given({"inputs": [{**VECTOR, "limits": limits}]})
    yield from ({"inputs": [{**LABEL, "limits": limits}], "requires": ["inputs"]} for limits in ([], [[0], [1]]))
    for change in ({"file": "../a.onnx"}, {"file": "a.txt"}, {"file": 1}, {"sha256": "0"}, {"sha256": "X" * 64}):
        yield {"stages": {"after": {**after, **named, **change}}, "requires": ["stages"]}


def all_changes():
    """Return every change of SPEC but those of guidance."""
    return [*INVALID, *new_changes(), *shape_changes(), *stage_changes()]


def guided_specs():
    """Yield the texts of specs with guidance."""
    yield from (json.dumps(values(**changes)) for changes in guidance_changes())


def new_changes():
    """What came after the format's first files: graphs, inputs, plans, times, and what requires says of them."""
    yield from ({"graph": graph} for graph in (None, "sampler", "slice", "edit", "other", 7, ["sampler"]))
    for plan in plan_changes():
        yield {"plans": {"p": plan}}
        yield {"plans": {"p": plan}, "requires": ["fractional_t", "variance_fraction"]}
        yield {"plans": {"p": plan}, "prediction": "eps", "alphas_cumprod": [0.9, 0.5, 0.1, 0.05]}
    yield from (
        {"plans": {name: {"rows": [ROW]}}} for name in ("", "a b", "-a", "a" * 64, "a" * 65, "é", "a\n", "1._+-")
    )
    yield from ({"plans": plans} for plans in (None, [], {}, "p", {"p": {"rows": [ROW]}, "q": None}))
    for inputs in input_changes():
        yield {"inputs": inputs, "requires": ["inputs"]}
        yield {"inputs": inputs}
    yield {"requires": ["inputs"]}
    for name in ("__proto__", "constructor", "toString"):  # what every object of JavaScript has
        yield {"inputs": [{**VECTOR, "name": name}], "requires": ["inputs"]}
        yield {"inputs": [{**VECTOR, "kind": name}], "requires": ["inputs"]}
        yield {"plans": {name: {"rows": [ROW]}}}
        yield {"defaults": {**DEFAULTS, "plan": name}, "requires": ["plan"]}
    falling = ([3], [3, 2, 0], [0])
    for times in (None, [], *falling, [2, 2], [1, 2], [4], [-1], [2.0], ["1"], [True], [None], [[1]], {}, 3, HUGE):
        for names in ([], ["times"], ["plan"]):
            yield {"defaults": {**DEFAULTS, "times": times}, "requires": names}
    yield {"requires": ["times", "plan", "fractional_t", "variance_fraction"]}
    for value in (True, False, 1):
        yield {"plans": {"p": {"rows": [ROW], "raw_eps": value}}, "requires": ["raw_eps"]}
    yield {"requires": ["raw_eps"]}
    for plan in (None, "p", "q", "", 1, True, "\x1b"):
        for names in ([], ["plan"]):
            yield {"plans": {"p": {"rows": [ROW]}}, "defaults": {**DEFAULTS, "plan": plan}, "requires": names}
    yield {"plans": {"p": None}, "requires": ["unheard-of"]}
    yield {"inputs": [LABEL], "requires": ["inputs", "unheard-of"]}
    yield {"inputs": [{}], "requires": ["inputs", "unheard-of"]}
    for key in ("defaults", "image_shape", "alphas_cumprod", "value_range", "name", "graph", "golden"):
        for value in ([None], [], ..., 7):
            yield {key: value, "requires": ["unheard-of"]}
            yield {key: value, "requires": ["unheard-of", 1]}
            yield {key: value, "noise": "other"}
    for kind in ([], {}, ["label"]):
        yield {"inputs": [{**VECTOR, "kind": kind}], "requires": ["inputs"]}
    yield {"inputs": [{**VECTOR, "none": HUGE}], "requires": ["inputs"]}
    yield from ({"defaults": {**DEFAULTS, "plan": name}, "requires": ["plan"]} for name in ([], {}, ["p"]))


def specs():
    """Yield the texts."""
    sound = json_from_spec(SPEC)
    yield from (sound, sound.replace(":", " :\t").replace("{", "{\r\n"))
    yield from (sound.encode().decode("unicode_escape"), "", " ", "{", "null", "1", "[]", "{}", "\x00", "\ufeff{}")
    yield from (sound[:-1], sound + "}", "1" * 100_000)
    yield from (
        json.dumps(values(**changes)) for changes in (*INVALID, *new_changes(), *shape_changes(), *stage_changes())
    )
    yield from (json.dumps(values(format=f"ddpm-export/{version}")) for version in ("1.7", "1/x", "2", "10", "1x", ""))
    yield from (
        json.dumps(values(noise=tag)) for tag in (None, 1, "", "philox4x32-10/icdf-q20/2", "\x1b]0;owned\x07\n")
    )
    for names in (["y"], ["variance_fraction"], ["variance_fraction", "y"]):
        yield from (json.dumps(values(requires=names)), json.dumps(values(requires=names, variance="learned")))
    numbers = ("NaN", "Infinity", "-Infinity", "1e999", "01", "1.", ".5", "+1", "1e", "-", "0x1", "1e-999", "1E+2")
    for number in (*numbers, "9" * 400):
        yield json.dumps(values(later="HERE", clip_x_0=1)).replace('"HERE"', number)
        yield json.dumps(values(clip_x_0="HERE")).replace('"HERE"', number)
    for depth in (*range(25, 40), 5000):
        for left, right, middle in (("[", "]", ""), ('{"a":', "}", "1"), ("[", "]", "1")):
            yield json.dumps(values(later="HERE")).replace('"HERE"', left * depth + middle + right * depth)
    for name in (r'"\u0041\n\"\/"', r'"\x41"', r'"\u00g1"', r'"\u٤٤٤٤"', '"\t"', '"\\', r'"\u', r'"\ud800"'):
        yield sound.replace('"tiny"', name)
    yield from (sound + " " * (256 * 1024 - len(sound) + extra) for extra in (0, 1))
    full = json.dumps(
        values(
            inputs=[LABEL, VECTOR],
            plans={"p": {"start": 2.5, "rows": [ROW, [1, 0.5, [1.5, -0.5], [], [0.5]]]}},
            defaults={**DEFAULTS, "times": [3, 1], "plan": "p"},
            requires=["inputs", "times", "plan"],
        )
    )
    yield full
    integers = ('"image_shape": [3,', '"num_steps": 4', '"times": [3,', '"shape": [5', '"none": 2,', "[[3,")
    yield from (
        full.replace(place, f"{place.rstrip(',')}{end}{',' * place.endswith(',')}")
        for place in integers
        for end in (".0", "e0")
    )
    noise = random.Random(0)
    for k in range(1000):
        damaged = list(full if k % 2 else sound)
        for _ in range(noise.randint(1, 3)):
            at = noise.randrange(len(damaged))
            damaged[at] = noise.choice(['"', "{", "]", ",", "0", "-", "e", ".", "\\", "", "\u00e9", damaged[at] * 2])
        yield "".join(damaged)


def shared_specs():
    """Return the texts that all languages judge alike: an integer beyond every float is not among them."""
    return [text for text in (*specs(), *guided_specs()) if "9" * 400 not in text]


def exit_code_of(text):
    """Return what Python's reader ends with, 0 where it reads the spec."""
    try:
        spec_from_json(text)
    except DdpmExportError as exc:
        return exc.exit_code
    return 0


def is_accepted(text):
    return exit_code_of(text) == 0


def case_of(change):
    """Return one of INVALID's changes, of which `...` takes a key away, as JSON has it."""
    without = sorted(key for key, value in change.items() if value is ...)
    kept = {key: value for key, value in change.items() if value is not ...}
    asked = {"without": without} if without else {}
    return {"accepted": is_accepted(json.dumps(values(**change))), "change": kept, **asked}


def files_of_attacks():
    """Return the contents of the folder of attacks by name, as `tests/golden/README.md` says."""
    changes = all_changes()
    known = {json.dumps(values(**change)) for change in changes}
    texts = [text for text in specs() if text not in known and len(text) <= MAX_CHARACTERS]
    texts = [*texts[:-1000], *texts[-1000::EVERY]]
    lines = {
        "changes": [case for case in map(case_of, changes) if len(json.dumps(case)) <= MAX_CHARACTERS],
        "texts": [{"accepted": is_accepted(text), "text": text} for text in texts if "9" * 400 not in text],
    }
    written = {name: ",\n  ".join(map(json.dumps, cases)) for name, cases in lines.items()}
    return {
        "changes.json": f'{{"sound": {json.dumps(values())},\n "cases": [\n  {written["changes"]}\n ]}}\n',
        "texts.json": f'{{"cases": [\n  {written["texts"]}\n ]}}\n',
    }


def attacks():
    """Return (text, whether it is accepted) of every case in the folder of attacks."""
    changes, texts = (json.loads((ATTACKS / f"{name}.json").read_text("ascii")) for name in ("changes", "texts"))
    changed = []
    for case in changes["cases"]:
        spec = {**changes["sound"], **case["change"]}
        left = {key: value for key, value in spec.items() if key not in case.get("without", ())}
        changed.append((json.dumps(left), case["accepted"]))
    return changed + [(case["text"], case["accepted"]) for case in texts["cases"]]


if __name__ == "__main__":
    for name, content in files_of_attacks().items():
        (ATTACKS / name).write_text(content, encoding="ascii")
