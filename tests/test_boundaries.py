"""Who may import what: read from the sources, and seen in fresh interpreters."""

import ast
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
LEVEL_0 = {
    "errors.py",
    "wording.py",
    "schedules.py",
    "noise.py",
    "elementwise.py",
    "guidance.py",
    "inputs.py",
    "plans.py",
    "diffusion.py",
    "samplers.py",
    "given.py",
    "spec.py",
    "golden.py",
    "golden_pictures.py",
}
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))
TORCH_RUNTIMES = {"runtimes/torchscript.py", "runtimes/pt2.py", "runtimes/torch_archive.py"}
ALLOWED = {  # package: who may import it; None of them may be imported by any other
    "torch": lambda file: file.startswith("exporting/") or file in TORCH_RUNTIMES,
    "onnx": lambda file: file.startswith("exporting/"),
    "typer": lambda file: file.startswith("cli/"),
    "rich": lambda file: file.startswith("cli/"),
    "onnxruntime": lambda file: file == "runtimes/onnx.py",
    "PIL": lambda file: file == "images.py",
    "pyarrow": lambda file: file == "shards/formats.py",
    "webdataset": lambda file: file == "shards/formats.py",
    "ray": lambda file: file == "shards/on_ray.py",
    "lmdb": lambda file: file == "datasets/lsun.py",
    "diffusers": lambda file: file.startswith("exporting/importers/diffusers"),
    "denoising_diffusion_pytorch": lambda file: file.startswith("exporting/importers/lucidrains"),
    "safetensors": lambda file: file.startswith("exporting/"),
    "huggingface_hub": lambda file: file == "exporting/hub.py",
}
KIN = {"onnxscript": "onnx", "onnx_ir": "onnx", "torchvision": "torch", "click": "typer"}


def tree_of(file):
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports_of(file):
    """Return (module, name or None) of every import in a file, also within functions and for type checkers."""
    found = []
    for statement in ast.walk(tree_of(file)):
        if isinstance(statement, ast.Import):
            found += [(alias.name, None) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{file}: imports are absolute"
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


@pytest.mark.parametrize("package", ALLOWED)
def test_only_its_own_files_import_a_package(package):
    users = [file for file in FILES if package in packages_of(file)]
    assert users  # else the scan sees nothing
    assert [file for file in users if not ALLOWED[package](file)] == []


def test_the_library_never_imports_training():
    strangers = {"train", "tests", "benchmarks", "matplotlib"}
    assert [file for file in FILES if packages_of(file) & strangers] == []


def test_training_never_imports_what_measures_it():
    files = sorted((ROOT.parent / "train").rglob("*.py"))
    assert files
    assert [file.name for file in files if packages_of(file) & {"benchmarks", "tests"}] == []


@pytest.mark.parametrize("file", sorted(LEVEL_0))
def test_level_0_is_numpy_the_standard_library_and_itself(file):
    level_0 = {f"ddpm_export.{Path(name).stem}" for name in LEVEL_0}
    for module, _ in imports_of(file):
        top = module.split(".")[0]
        assert module in level_0 if top == "ddpm_export" else top == "numpy" or top in sys.stdlib_module_names, module


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
    rooms = {Path(file).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert set().union(*floors()) == rooms
    assert sum(map(len, floors())) == len(rooms)
    assert floors()[-1] == {Path(file).stem for file in LEVEL_0}
    floor_of = {room: number for number, floor in enumerate(floors()) for room in floor}
    up = []
    for file in FILES:
        room = Path(file).parts[0].removesuffix(".py")
        for module, _ in imports_of(file):
            top, *rest = module.split(".")
            if top == "ddpm_export" and rest and room in floor_of and floor_of[rest[0]] < floor_of[room]:
                up.append(f"{file}: {module}")
    assert up == []


OPENING = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "load",
    "save",
    "fromfile",
    "tofile",
    "memmap",
}


@pytest.mark.parametrize("file", sorted(LEVEL_0))
def test_level_0_opens_no_file(file):
    assert not {module.split(".")[0] for module, _ in imports_of(file)} & {"pathlib", "os", "io", "tempfile", "shutil"}
    calls = [node.func for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    names = {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}
    assert not names & OPENING


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("cli/")])
def test_nothing_below_cli_prints(file):
    calls = [ast.unparse(node.func) for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    assert not {"print", "sys.stdout.write", "sys.stderr.write", "sys.exit"} & set(calls)


def declared(file):
    """Return the module's __all__, None where it has none."""
    for statement in tree_of(file).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return ast.literal_eval(statement.value)
    return None


def bound(file):
    """Return what a module's top level defines: functions, classes and variables."""
    names = set()
    for statement in tree_of(file).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return names


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py" and tree_of(file).body[1:]])
def test_every_all_names_what_is_there(file):
    names = declared(file)
    assert names
    assert len(set(names)) == len(names)
    reexported = {name for module, name in imports_of(file) if module.startswith("ddpm_export.")}
    assert set(names) <= bound(file) | reexported
    if file.startswith("cli/") and file not in ("cli/console.py", "cli/signals.py", "cli/start.py"):
        assert names == ["main"]


def test_what_one_module_takes_from_another_is_in_its_all():
    taken = {}
    for file in FILES:
        for module, name in imports_of(file):
            if module.startswith("ddpm_export.") and name is not None:
                taken.setdefault(module, set()).add(name)
    assert "ddpm_export.errors" in taken
    for module, names in taken.items():
        path = ROOT.parent / module.replace(".", "/")
        home = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        modules = {other.stem for other in path.glob("*.py")} if path.is_dir() else set()
        missing = names - set(declared(str(home.relative_to(ROOT))) or ()) - modules
        assert missing == set(), f"{module}: {missing}"


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
        assert name in module.__all__
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
