"""Policies in C++, C, JavaScript and on the page: a control loop takes the actions that Python's takes, or stops."""

import ctypes
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from representative import representative

from ddpm_export import generate, open_model, open_policy
from ddpm_export.model.spec_json import json_from_spec
from tests.exporting.test_lerobot import exported_policy, observed  # noqa: F401  # a fixture among them

from .test_cpp import (  # noqa: F401  # fixtures among them
    FLOATS,
    MODEL,
    UNET,
    CInput,
    Message,
    complaints,
    library,
    library_path,
    programs,
    run,
)
from .test_web import WEB, needs, seen_in_page

pytestmark = pytest.mark.torch
TWO_WAYS = WEB / "two-ways.onnx"
GIVEN = (ctypes.POINTER(CInput), ctypes.c_size_t)
STAGES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, *GIVEN, ctypes.c_void_p, ctypes.c_size_t)


class Output(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("numbers", FLOATS), ("count", ctypes.c_size_t)]


@pytest.fixture(scope="module", params=["state-ddim", "camera"])
def episode(request, exported_policy):  # noqa: F811
    """Return an exported policy, what was observed over three plans and one step, and Python's actions from seed 7."""
    path, recorded = exported_policy(request.param)
    recorded, python = observed(recorded), open_policy(path)
    python.reset(seed=7)
    frames = [values.reshape(-1, *values.shape[2:]) for values in recorded.values()]
    names = [entry.name for entry in python.spec.asked_inputs]
    steps = []
    for k in range(3 * python.spec.result_shape[0] + 1):
        seen = {name: values[k % len(values)] for name, values in zip(recorded, frames, strict=True)}
        steps.append({name: seen[name] for name in names})
    actions = np.array([python(step) for step in steps])
    assert python.plans == 4
    assert np.ptp(actions) > 0.5
    return SimpleNamespace(path=path, steps=steps, actions=actions, spec=python.spec)


def lines_of(steps):
    return "".join(" ".join(f"{n:.9g}" for values in step.values() for n in values.ravel()) + "\n" for step in steps)


@pytest.fixture(params=["C++", "JavaScript"])
def control(request):
    """Return what runs a control loop: path, steps, seed and deadline -> (exit code, actions, error)."""

    def loop(path, steps, *arguments):
        said = {"input": lines_of(steps).encode()}
        if request.param == "C++":
            done = run([request.getfixturevalue("programs") / "control", path, *arguments], **said)
        else:
            needs("onnxruntime-node")
            done = run(["node", "control.js", path, *arguments], cwd=WEB, **said)
        return done.returncode, np.array([line.split() for line in done.stdout.decode().splitlines()], np.float32), done

    return loop


def test_a_control_loop_takes_pythons_actions(control, episode):
    code, actions, done = control(episode.path, episode.steps, 7)
    assert code == 0, complaints(done)
    np.testing.assert_allclose(actions, episode.actions, rtol=0, atol=1e-5 * np.ptp(episode.actions))
    assert np.abs(control(episode.path, episode.steps[:1], 8)[1] - actions[:1]).max() > 1e-3


def changed(step, change):
    first = next(iter(step))
    return {**step, first: change(step[first])}


def test_a_control_loop_stops_where_what_it_sees_or_its_time_is_wrong(control, episode, tmp_path):
    first, *others = episode.steps[:3]
    wrong = {
        "must be finite": (2, changed(first, lambda v: v * np.nan)),
        "must be from": (2, changed(first, lambda v: v + 1e4)),
        "must have shape": (2, dict(list(first.items())[:-1])),
    }
    for message, (expected, step) in wrong.items():
        code, actions, done = control(episode.path, [first, step, *others])
        assert (code, len(actions)) == (expected, 1)
        assert message in complaints(done)[-1]
    code, actions, done = control(episode.path, episode.steps, 7, 1e-9)
    assert (code, len(actions)) == (5, 0)
    assert "longer than the deadline" in complaints(done)[-1]
    assert control(episode.path, [{**first, "more": np.zeros(1)}])[0] == 2
    shutil.copy(episode.path, tmp_path / "policy.onnx")
    code, _, done = control(tmp_path / "policy.onnx", episode.steps)
    assert code == 3
    assert "the stage" in complaints(done)[-1] or "stage 'before'" in complaints(done)[-1]


def arrays_of(entries, count, batch):
    """Return C inputs by name."""
    return {
        entry.name.decode(): np.ctypeslib.as_array(entry.numbers, shape=(batch, *entry.shape[: entry.num_dimensions]))
        for entry in entries[:count]
    }


def test_the_c_interface_takes_pythons_actions(library, episode):  # noqa: F811
    network, spec = open_model(episode.path)
    text, handle, error = json_from_spec(spec).encode(), ctypes.c_void_p(), Message()

    @MODEL
    def evaluate(_, evaluation):
        asked = evaluation.contents
        x_t = np.ctypeslib.as_array(asked.x_t, shape=(asked.batch, *spec.state_shape))
        t = np.full(asked.batch, asked.t, np.int64)
        outputs = network(x_t, t, **arrays_of(asked.inputs, asked.num_inputs, asked.batch))
        np.ctypeslib.as_array(asked.prediction, shape=x_t.shape)[:] = outputs[spec.prediction]
        return 0

    @STAGES
    def stages(_, name, inputs, num_inputs, outputs, num_outputs):
        found = network.stages[name.decode()](arrays_of(inputs, num_inputs, 1))
        for one in ctypes.cast(outputs, ctypes.POINTER(Output))[:num_outputs]:
            np.ctypeslib.as_array(one.numbers, shape=(one.count,))[:] = found[one.name.decode()].ravel()
        return 0

    def made(run_stages, deadline=np.inf):
        how = (None, ctypes.c_double(deadline), None, ctypes.byref(handle), ctypes.byref(error))
        return library.ddpm_policy_from_json(text, ctypes.c_size_t(len(text)), evaluate, run_stages, *how)

    def act(step):
        action = np.empty(library.ddpm_policy_num_actions(handle), np.float32)
        values = {name: np.ascontiguousarray(v, np.float32) for name, v in step.items()}
        seen = [CInput(name=n.encode(), numbers=v.ctypes.data_as(FLOATS), count=v.size) for n, v in values.items()]
        to = (action.ctypes.data_as(FLOATS), ctypes.byref(error))
        return library.ddpm_policy_act(handle, (CInput * len(seen))(*seen), ctypes.c_size_t(len(seen)), *to), action

    assert made(stages) == 0, str(error)
    library.ddpm_policy_reset(handle, ctypes.c_int64(7))
    actions = []
    for step in episode.steps:
        assert act(changed(step, lambda v: v * np.nan))[0] == 2  # which changes nothing
        code, action = act(step)
        assert code == 0, str(error)
        actions.append(action)
    np.testing.assert_allclose(actions, episode.actions, rtol=0, atol=1e-5 * np.ptp(episode.actions))
    for step, message in (({}, "lacks"), ({**episode.steps[0], "other": np.zeros(1)}, "has 'other'")):
        assert act(step)[0] == 2
        assert message in str(error)
    library.ddpm_policy_free(handle)
    assert made(stages, 0.0) == 0
    assert act(episode.steps[0])[0] == 5
    assert "Plan 0 took" in str(error)
    library.ddpm_policy_free(handle)
    assert made(STAGES()) == 2
    assert "Pass what runs them" in str(error)
    text = json_from_spec(open_model(UNET)[1]).encode()
    assert made(stages) == 4
    assert "A policy takes observations" in str(error)


PAGE_SIZES = [{"width": 1200, "height": 900}, {"width": 390, "height": 844}]


@representative("viewport", PAGE_SIZES, ids=["desk", "phone"])
def test_the_page_shows_pythons_plans_and_the_dot_follows_one(viewport):
    """At first the dot, the disc and the goal are in a line: the disc 0.4 ahead, the goal 0.8."""
    seen = seen_in_page("plans", viewport=viewport)
    assert seen["problem"] == ""
    given = {"observation.state": [[0.8]], "observation.environment_state": [[0.4, 0.0]]}
    expected = generate(TWO_WAYS, n=32, seed=7, inputs=given) + np.float32([0.1, 0.5])
    plans = np.array(seen["plans"])
    np.testing.assert_array_equal(plans[:, 0], np.full((32, 2), (0.1, 0.5)))
    np.testing.assert_allclose(plans[:, 1:], expected, rtol=0, atol=1e-5)
    sides = plans[np.arange(32), np.abs(plans[:, :, 0] - 0.5).argmin(axis=1), 1] > 0.5
    assert 5 < sides.sum() < 27  # both ways
    np.testing.assert_allclose(seen["dragged"], [(0.45, 0.88), (0.8, 0.2)], atol=0.02)
    np.testing.assert_allclose(seen["goal"], np.add(seen["dragged"][1], (0.02, 0)), atol=1e-6)
    assert np.hypot(*np.subtract(seen["dot"], seen["goal"])) < 0.03  # it arrived, and stays
    assert re.fullmatch(r"Planned anew [\d.]+ times a second\.", seen["status"])
    assert seen["contrast"]["ratio"] >= 4.5
