"""Who may import what: read from the sources, and seen in fresh interpreters."""

import ast
import functools
import importlib
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import run_apart
from models import mix_model

import ddpm_export

ROOT = Path(ddpm_export.__file__).parent
HOUSE = ROOT.parent / "docs" / "architecture" / "house.svg"
LEVEL_0 = ("process/", "model/", "errors.py")
ROOM_FLOORS, FILE_FLOORS, LONGEST_FILE = 10, 14, 400
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))
NEEDS_TORCH = ("exporting/", "importers/", "runtimes/torch_archive.py")
ALLOWED = {  # package: the files and rooms that may import it
    "torch": NEEDS_TORCH,
    "onnx": ("exporting/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "onnxruntime": ("runtimes/onnx.py",),
    "PIL": ("images/",),
    "pyarrow": ("sets/formats.py",),
    "webdataset": ("sets/formats.py",),
    "ray": ("sets/on_ray.py",),
    "lmdb": ("scoring/datasets/lsun.py",),
    "uvicorn": ("serving/server.py",),
    "starlette": ("serving/service.py",),
    "diffusers": ("importers/diffusers",),
    "denoising_diffusion_pytorch": ("importers/lucidrains",),
    "safetensors": ("importers/",),
    "huggingface_hub": ("importers/hub.py",),
}
KIN = {"onnxscript": "onnx", "onnx_ir": "onnx", "torchvision": "torch", "click": "typer"}


@functools.cache
def tree_of(file):
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@functools.cache
def imports_of(file):
    """Return (module, name or None) of every import in a file, also within functions and for type checkers."""
    found = []
    for statement in ast.walk(tree_of(file)):
        if isinstance(statement, ast.Import):
            found += [(alias.name, None) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0 or "train" in Path(file).parts, (
                f"{file}: imports are absolute"
            )  # train: two names
            found += [(statement.module, alias.name) for alias in statement.names]
        elif (
            isinstance(statement, ast.Call)
            and ast.unparse(statement.func) in ("__import__", "importlib.import_module", "import_module")
            and isinstance(statement.args[0], ast.Constant)
        ):
            found.append((statement.args[0].value, None))
    return found


def packages_of(file):
    tops = {module.split(".")[0] for module, _ in imports_of(file)}
    return {KIN.get(top, top) for top in tops}


def test_only_its_own_files_import_a_package():
    for package, places in ALLOWED.items():
        users = [file for file in FILES if package in packages_of(file)]
        assert users, "else the scan sees nothing"
        assert [file for file in users if not file.startswith(places)] == [], package


def test_neither_the_library_nor_training_imports_what_uses_it():
    training = sorted((ROOT.parent / "train").rglob("*.py"))
    assert training
    assert [file for file in FILES if packages_of(file) & {"train", "tests", "benchmarks", "matplotlib"}] == []
    assert [file.name for file in training if packages_of(file) & {"benchmarks", "tests"}] == []


NUMPY_ONLY = [file for file in FILES if file.startswith(LEVEL_0)]


def test_level_0_is_numpy_the_standard_library_and_itself():
    for file in NUMPY_ONLY:
        for module, _ in imports_of(file):
            top = module.split(".")[0]
            if top == "ddpm_export":
                assert any(module.startswith(f"ddpm_export.{Path(place).stem}") for place in LEVEL_0), (file, module)
            else:
                assert top == "numpy" or top in sys.stdlib_module_names, (file, module)


MODULES = {f"ddpm_export.{file[:-3].replace('/', '.').removesuffix('.__init__')}": file for file in FILES}


@functools.cache
def graph():
    """Return for each file of the package, but the one of its public names, the files that it imports."""
    found = {}
    for file in FILES:
        if file != "__init__.py":
            targets = [f"{m}.{name}" if f"{m}.{name}" in MODULES else m for m, name in imports_of(file)]
            found[file] = {MODULES[m] for m in targets if m in MODULES} - {file, "__init__.py"}
    return found


def room_of(file):
    return Path(file).parts[0].removesuffix(".py")


def heights(edges):
    """Return how many floors each node stands on, itself the top one; AssertionError where there is a cycle."""
    found = {}

    def height(node, above):
        assert node not in above, f"cycle: {' -> '.join((*above[above.index(node) :], node))}"
        if node not in found:
            found[node] = 1 + max((height(under, (*above, node)) for under in edges[node]), default=0)
        return found[node]

    for node in edges:
        height(node, ())
    return found


def rooms(edges):
    found = {}
    for file, imported in edges.items():
        found.setdefault(room_of(file), set()).update({room_of(other) for other in imported} - {room_of(file)})
    return found


def test_rooms_and_files_have_few_floors_and_no_cycle():
    assert max(heights(rooms(graph())).values()) <= ROOM_FLOORS
    assert max(heights(graph()).values()) <= FILE_FLOORS


def test_no_file_is_long():
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def test_a_cycle_is_seen():
    with pytest.raises(AssertionError, match="cycle: a -> b -> a"):
        heights({"a": {"b"}, "b": {"a"}})


def test_the_init_of_a_room_is_a_sentence_and_nothing_else():
    for room in {Path(file).parts[0] for file in FILES if "/" in file}:
        tree = tree_of(f"{room}/__init__.py")
        assert len(tree.body) == 1, room
        assert (ast.get_docstring(tree) or "").endswith("."), room


def floors():
    """Return the rooms of each floor of docs/architecture.md's picture, from the top."""
    shapes = [shape.attrib for shape in ElementTree.parse(HOUSE).iter("{http://www.w3.org/2000/svg}rect")]
    storeys = sorted((shape for shape in shapes if "data-floor" in shape), key=lambda shape: float(shape["y"]))
    found = []
    for storey in storeys:
        top, bottom = float(storey["y"]), float(storey["y"]) + float(storey["height"])
        inside = [shape for shape in shapes if "data-rooms" in shape and top <= float(shape["y"]) < bottom]
        found.append({room for shape in inside for room in shape["data-rooms"].split()})
    return found


def test_the_picture_of_the_house_has_every_room_and_no_import_leads_up():
    edges = rooms(graph())
    assert set().union(*floors()) == set(edges)
    assert sum(map(len, floors())) == len(edges)
    floor_of = {room: number for number, floor in enumerate(floors()) for room in floor}
    assert [(room, under) for room in edges for under in edges[room] if floor_of[under] <= floor_of[room]] == []


OPENING = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes"),
    *("load", "save", "fromfile", "tofile", "memmap"),
}


def calls_of(file):
    return [ast.unparse(node.func) for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]


def test_level_0_opens_no_file():
    for file in NUMPY_ONLY:
        imported = {module.split(".")[0] for module, _ in imports_of(file)}
        assert not imported & {"pathlib", "os", "io", "tempfile", "shutil"}, file
        assert not {name.rpartition(".")[2] for name in calls_of(file)} & OPENING, file


def test_nothing_below_cli_prints():
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "sys.exit"}
    assert [file for file in FILES if not file.startswith("cli/") and printing & set(calls_of(file))] == []


def test_what_one_module_takes_from_another_is_public():
    taken = [
        (file, module, name)
        for file in FILES
        for module, name in imports_of(file)
        if name and name[0] == "_" != name[1]
    ]
    assert [entry for entry in taken if entry[1].startswith("ddpm_export")] == []


def test_no_public_name_is_that_of_a_module():
    """Whoever imported `ddpm_export.x` before would get the module where the function x is meant."""
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not modules & set(ddpm_export.__all__)


def test_the_public_names_are_all_there_and_every_one_loads():
    assert set(ddpm_export.__all__) == {*ddpm_export._HOME, "__version__"}
    typed = {name for module, name in imports_of("__init__.py") if module.startswith("ddpm_export.")}
    assert typed == set(ddpm_export._HOME)  # what type checkers see
    for name, home in ddpm_export._HOME.items():
        module = importlib.import_module(f"ddpm_export.{home}")
        value = ddpm_export.__getattr__(name)
        assert value is getattr(module, name)
        assert getattr(ddpm_export, name) is value
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ddpm_export.nothing


HEAVY = ["torch", "onnx", "onnxscript", "onnxruntime", "PIL", "typer", "rich", "numpy"]
LOADED = f"print(*[name for name in {HEAVY!r} if name in sys.modules])"


def test_import_loads_nothing_and_the_straight_line_only_what_it_needs(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    code = f"""
import sys
import ddpm_export
{LOADED}
from ddpm_export import *
{LOADED}
model, spec = open_model(sys.argv[1])
*_, state = walk(denoiser(model, spec), noise_stream(0, range(2), spec.state_shape), plan(spec, num_steps=3))
{LOADED}
save_images(sys.argv[2], to_uint8(state.x_0))
{LOADED}
"""
    ending = run_apart(tmp_path / "m.onnx", tmp_path / "a.png", code=code)
    assert ending.code == 0, ending
    assert ending.out.splitlines() == ["", "numpy", "onnxruntime numpy", "onnxruntime PIL numpy"]


def test_a_whole_run_loads_neither_torch_nor_onnx_even_where_it_refuses_a_torch_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    (tmp_path / "m.ts").write_bytes(b"PK")
    (tmp_path / "m.pt2").write_bytes(b"PK")
    code = f"""
import sys
from ddpm_export.cli.run import main
folder = sys.argv[1]
for model, out in (("m.ts", "a.png"), ("m.pt2", "a.png"), ("m.onnx", "a.png"), ("m.onnx", "a.webp"), ("m.onnx", "b")):
    sys.argv[1:] = [folder + "/" + model, "--n", "2", "--out", folder + "/" + out]
    try:
        main()
    except SystemExit as end:
        print(end.code, end=" ")
        {LOADED}
"""
    ending = run_apart(tmp_path, code=code)
    assert ending.code == 0, ending
    lines = [line for line in ending.out.splitlines() if " image" not in line]
    codes = " ".join(line.split()[0] for line in lines)
    assert codes == "3 3 0 0 0"
    for line in lines:
        assert not {"torch", "onnx", "onnxscript"} & set(line.split()), line
    assert {"onnxruntime", "PIL", "typer"} <= set(lines[-1].split())
