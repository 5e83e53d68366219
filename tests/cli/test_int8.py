import json

import pytest
from models import deep_model, tiny_spec

pytest.importorskip("onnx")


def test_a_file_of_8_bit_integers_is_named_so_and_sound(tmp_path, command):
    (tmp_path / "m.onnx").write_bytes(deep_model(tiny_spec((1, 8, 8))))
    code, out, err = command("export", tmp_path / "m.onnx", "--precision", "int8", "--calibrate", "8", "--json")
    assert (code, err) == (0, "")
    (made,) = json.loads(out)["files"]
    assert made["path"] == str(tmp_path / "m.int8.onnx")
    assert made["proof"]["rms_levels"] < 2
    code, out, _ = command("check", tmp_path / "m.int8.onnx", "--json", "--trust")
    assert code == 0
    assert {case["tolerance"] for case in json.loads(out)["golden"]} == {0.25}
