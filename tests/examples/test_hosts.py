"""The hosts of one-call files in Java and Swift: `sample` of each gives the graph's own pictures, as Python runs it."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from models import COLOUR, classes_file, mix_model, tiny_spec
from representative import representative

from ddpm_export import edit, export, generate
from ddpm_export.exporting.sampler import slice_from_denoiser, spec_of_graph
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.process.rows import Plan, Row

onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).resolve().parents[2]
ANDROID, IOS = ROOT / "examples" / "android", ROOT / "examples" / "ios"
MODEL = ROOT / "exported" / "unet.onnx"
PICTURE, MASK = ROOT / "docs" / "given" / "pictures" / "00.png", ROOT / "docs" / "given" / "right-half.png"
HOSTS = ("Java", "Swift")

pytestmark = pytest.mark.torch  # no torch, but compilers: they take more than ten seconds


def ran(*command, **options):
    """The finished process; with what it said, should it have failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def needs(*tools, **packages):
    """Skip, by name, where a tool or a library of pkg-config is missing."""
    for tool, package in packages.items():
        if shutil.which(tool.replace("_", "-")) is None:
            pytest.skip(f"no {tool.replace('_', '-')}: apt install {package}")
    for library in tools:
        if subprocess.run(["pkg-config", "--exists", library], check=False).returncode:
            pytest.skip(f"no {library}: apt install {library}-dev")


@pytest.fixture(scope="session")
def java(made_once):
    """The folder of the program `sample` on a JVM, and its classes, built as the README says, warnings as errors."""
    needs("libonnxruntime", javac="openjdk-17-jdk-headless", pkg_config="pkg-config")
    needs(**{"c++": "g++"})
    compilers = [Path(shutil.which(name)).resolve() for name in ("c++", "javac")]
    make = functools.partial(ran, "sh", ANDROID / "jvm" / "build.sh")
    return made_once("jvm", make, ANDROID, *compilers)


@pytest.fixture(scope="session")
def swift(made_once):
    """The folder of what SwiftPM builds, warnings as errors."""
    needs("libonnxruntime", "libpng", pkg_config="pkg-config", swift="swiftlang")

    def make(scratch):
        command = ["swift", "build", "-c", "release", "--scratch-path", scratch, "--cache-path", scratch / "cache"]
        done = ran(*command, "-Xswiftc", "-warnings-as-errors", cwd=IOS)
        assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
        (scratch / "release").unlink()  # an absolute link, into the folder that is renamed
        (scratch / "release").symlink_to(next(scratch.glob("*/release")).relative_to(scratch))

    return made_once("swift", make, IOS, Path(shutil.which("swift")).resolve()) / "release"


@pytest.fixture(params=HOSTS)
def sample(request):
    """Run a host's program; return (exit code, what it said, the picture that it wrote if any)."""
    program = request.getfixturevalue(request.param.lower()) / "sample"

    def call(out, *arguments):
        command = [str(part) for part in (program, *arguments, "--out", out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        # Debian's ONNX Runtime writes these as it starts
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Schema error")]
        if done.returncode == 0:
            report = json.loads(done.stdout)
            assert set(report) == {"images", "seconds_load", "seconds"}
            assert 0 < report["seconds_load"] < report["seconds"]
            return 0, lines, read_image(out, 3 if out.stem == "colour" else 1)
        assert len(lines) == 1, done.stderr
        return done.returncode, lines[0], None

    return call


@pytest.fixture(scope="module")
def files(made_once):
    """Return (graph, what is open) -> a one-call file of the shipped network."""

    def get(graph, opens=()):
        name = f"{'-'.join([*opens, 'unet'])}.{graph}.onnx"

        def make(folder):
            export(MODEL, folder / name, format=graph, opens=opens)

        return made_once(name, make, MODEL, ROOT / "ddpm_export") / name

    return get


# --- pictures: those of the graph in Python, to the bit ---

RUNS = [
    (
        "slice",
        ("plan", "guidance"),
        "--plan 5 --guidance 1 --label 3,4",
        {"plan": "tuned-8", "guidance": 1.0, "label": [3, 4]},
    ),
    ("sampler", (), "--label 3,4", {"label": [3, 4]}),
    ("slice", (), "--label 9", {"label": 9}),
    ("sampler", "all", "--steps 7 --eta 0.5 --guidance 2", {"num_steps": 7, "eta": 0.5, "guidance": 2.0}),
    ("slice", ("steps", "guidance"), "--steps 6 --guidance 0", {"num_steps": 6, "guidance": 0.0}),
    ("sampler", ("times",), "--times 900,500,20", {"times": [900, 500, 20]}),
]


@representative(("graph", "opens", "arguments", "how"), RUNS, ids=str)
def test_the_pictures_are_the_graphs(sample, files, tmp_path, graph, opens, arguments, how):
    path = files(graph, opens)
    more = ["--n", 5, "--seed", 2**63 - 1, "--first", 7, *([] if "label" in how else ["--label", 1])]
    code, stated, picture = sample(tmp_path / "grid.png", path, *arguments.split(), *more)
    assert (code, stated) == (0, [])
    expected = grid(generate(path, n=5, seed=2**63 - 1, first=7, **{"label": 1, **how}))
    np.testing.assert_array_equal(picture, expected)


def test_emoji_of_latents_are_the_graphs(sample, made_once, tmp_path):
    emoji = ROOT / "emoji" / "unet.onnx"
    make = lambda folder: export(emoji, folder / "emoji.onnx", format="sampler")  # noqa: E731
    path = made_once("emoji.sampler", make, emoji, ROOT / "ddpm_export") / "emoji.onnx"
    code, stated, picture = sample(tmp_path / "colour.png", path, "--n", 2, "--seed", 7, "--label", 2)
    assert (code, stated) == (0, [])
    np.testing.assert_array_equal(picture, grid(generate(path, n=2, seed=7, label="animals")))
    denoiser = grid(generate(emoji, n=2, seed=7, label="animals"))
    assert np.abs(picture.astype(int) - denoiser).max() <= 1


@representative("strength", [0.6, None])
def test_a_picture_is_filled_in(sample, files, tmp_path, strength):
    path = files("edit")
    arguments = ["--image", PICTURE, "--mask", MASK, "--label", 2, "--n", 3, "--seed", 5]
    arguments += [] if strength is None else ["--strength", strength]
    code, stated, picture = sample(tmp_path / "grid.png", path, *arguments)
    assert (code, stated) == (0, [])
    mask = read_image(MASK, 1)[..., 0]
    how = {"mask": mask, "strength": strength, "n": 3, "seed": 5, "label": 2}
    np.testing.assert_array_equal(picture, grid(edit(path, read_image(PICTURE, 1)[np.newaxis], **how)))


@pytest.mark.long
def test_colours(sample, tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    path = export(tmp_path / "m.onnx", tmp_path / "m.edit.onnx", format="edit").path
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    found = sample(tmp_path / "colour.png", path, "--image", tmp_path / "picture.png", "--strength", 0.5, "--n", 2)[2]
    np.testing.assert_array_equal(found, grid(edit(path, pixels[np.newaxis], strength=0.5, n=2, seed=0)))


@pytest.mark.long
def test_a_slice_whose_rows_look_back_and_that_is_told_what_was_found(sample, tmp_path):
    """`history` and `x_0_prev` begin empty, and go from slice to slice."""
    A = tiny_spec().alphas_cumprod
    rows = (Row(1, 35, A[35], (0.5,), (0.75,), (0.25,)), Row(2, 9, A[9], (1.25, -0.25)))
    label = Input("y", "label", none=3, classes=("a", "b", "c"))
    spec = tiny_spec(
        inputs=(label,), requires=("inputs", "plan", "guidance"), plans={"own": Plan(rows)},
        defaults=Defaults(num_steps=5, plan="own", guidance=Guidance(2.0, (0, 20))),
    )  # fmt: skip
    content = classes_file(spec, [-0.75, 0.5, 0.75, 0.125], 0.5)
    model = slice_from_denoiser(onnx.load_from_string(content), spec_of_graph(spec, "slice", ()))
    onnx.save(model, tmp_path / "m.slice.onnx")
    assert {"history"} <= {entry.name for entry in model.graph.input}
    picture = sample(tmp_path / "grid.png", tmp_path / "m.slice.onnx", "--n", 4, "--seed", 3, "--label", "0,2,3")[2]
    np.testing.assert_array_equal(picture, grid(generate(tmp_path / "m.slice.onnx", n=4, seed=3, label=[0, 2, "none"])))


# --- what is refused, in one line ---


@representative(
    ("graph", "opens", "arguments", "code", "words"),
    [
        ("sampler", (), "--label 1 --steps 7", 2, "steps is fixed in this file. Export the model again with --open"),
        ("sampler", (), f"--label 1 --image {PICTURE}", 2, "image is fixed in this file"),
        ("sampler", (), "", 2, "y must be set: the file leaves it open."),
        ("slice", ("steps", "guidance"), "--label 1 --guidance 2", 2, "steps must be set: the file leaves it open."),
        ("sampler", (), "--label 11", 2, "y must be 0 to 10."),
        ("sampler", (), "--label 1 --seed -1", 2, "seed must be 0 to 2^63 - 1."),
        ("slice", ("steps", "guidance"), "--label 1 --guidance 101 --steps 3", 2, "guidance must be 0 to 100."),
        ("sampler", (), "--n 0", 2, "--n must be 1 to 1048576, got 0."),
        ("sampler", (), "--label cat", 2, "--label must be"),
        ("sampler", (), "--what 1", 2, "Unknown argument --what"),
        ("edit", (), f"--label 1 --image {ROOT / 'README.md'}", 3, "README.md cannot be read as a"),
        ("slice", "all", "--label 1", 3, "is no one-call file that this host takes"),
    ],
)
def test_refusals(sample, files, tmp_path, graph, opens, arguments, code, words):
    out = tmp_path / "grid.png"
    ended, stated, _ = sample(out, files(graph, opens), *arguments.split())
    assert (ended, words in stated) == (code, True), stated
    assert not out.exists()


def test_files_that_are_none(sample, files, tmp_path):
    for model, code, words in (
        (tmp_path / "missing.onnx", 3, "missing.onnx: ONNX Runtime cannot load it"),
        (ROOT / "README.md", 3, "README.md: ONNX Runtime cannot load it"),
        (MODEL, 3, "unet.onnx is no one-call file"),
    ):
        ended, stated, _ = sample(tmp_path / "grid.png", model)
        assert (ended, words in stated) == (code, True), stated
    ended, stated, _ = sample(tmp_path / "none" / "grid.png", files("sampler"), "--label", 1, "--n", 1)
    assert (ended, "cannot be written" in stated) == (5, True), stated


@pytest.mark.long
def test_a_network_that_goes_bad_gives_no_picture(sample, files, tmp_path):
    model = onnx.load(files("sampler"))
    loop = next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g
    largest = max(loop.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = np.full(len(largest.raw_data) // 4, np.nan, dtype="<f4").tobytes()
    onnx.save(model, tmp_path / "nan.onnx")
    ended, stated, _ = sample(tmp_path / "grid.png", tmp_path / "nan.onnx", "--label", 1, "--n", 1)
    assert (ended, "the network gave NaN or infinity" in stated) == (6, True), stated


# --- progress, preview, cancel ---

JAVA_STEPS = """
import ddpm.OneCall;
import java.io.File;
import java.util.Arrays;

public final class Steps {
    public static void main(String[] arguments) {
        OneCall.Settings settings = new OneCall.Settings();
        settings.seed = 7;
        settings.labels = new long[] {3};
        int last = Integer.parseInt(arguments[1]);
        try (OneCall model = OneCall.open(new File(arguments[0]), 1)) {
            model.pictures(settings, (step, steps, preview) -> {
                System.out.println(step + " " + steps + " " + Arrays.hashCode(preview.pixels));
                return step < last;
            });
        } catch (java.util.concurrent.CancellationException exception) {
            System.out.println(exception.getMessage());
        }
    }
}
"""
SWIFT_STEPS = """
import DDPM

var settings = Settings()
(settings.seed, settings.labels) = (7, [3])
let last = Int(CommandLine.arguments[2])!
do {
    _ = try OneCall(path: CommandLine.arguments[1], threads: 1).pictures(settings) { step, all, preview in
        // java.util.Arrays.hashCode of signed bytes
        let hash = preview.pixels.reduce(Int32(1)) { 31 &* $0 &+ Int32(Int8(bitPattern: $1)) }
        print(step, all, hash)
        return step < last
    }
} catch is CancellationError {
    print("cancelled after step \\(last) of 8")
}
"""


def compiled_swift(swift, out, *files):
    """Compile a program against what the package built."""
    objects = [
        file for name in ("DDPM", "OnnxRuntimeBindings") for file in sorted((swift / f"{name}.build").glob("*.o"))
    ]
    include = ran("pkg-config", "--variable=includedir", "libonnxruntime").stdout.strip()
    ran(
        "swiftc", "-O", "-warnings-as-errors", "-I", swift / "Modules", "-I", IOS / "Linux" / "COnnxRuntime",
        "-Xcc", f"-I{include}", *files, *objects, "-lonnxruntime", "-o", out, cwd=out.parent,
    )  # fmt: skip


def previews(path, count):
    """What a slice shows after each step, by its hash."""
    session = __import__("onnxruntime").InferenceSession(str(path))
    given = {name: np.array(value) for name, value in {"seed": 7, "first": 0, "y": [3]}.items()}
    empty = {"x": np.zeros((1, 0, 0, 0), np.float32), "history": np.zeros((0, 1, 0, 0, 0), np.float32)}
    state = {entry.name: empty[entry.name] for entry in session.get_inputs() if entry.name in empty}
    hashes = []
    for step in range(count):
        step_of = {"begin": np.array(step), "end": np.array(step + 1)}
        images, *found = session.run(["images", *(f"{name}_after" for name in state)], {**given, **state, **step_of})
        state = dict(zip(state, found, strict=True))
        value = 1
        for pixel in images.astype(np.int8).ravel().tolist():
            value = (31 * value + pixel) % 2**32
        hashes.append(value - 2**32 if value >= 2**31 else value)
    return hashes


@pytest.mark.parametrize("host", HOSTS)
def test_each_step_is_shown_and_can_be_the_last(request, files, tmp_path, host):
    path = files("slice")
    if host == "Java":
        java = request.getfixturevalue("java")
        (tmp_path / "Steps.java").write_text(JAVA_STEPS, encoding="utf-8")
        ran(
            "javac",
            "--release",
            "8",
            "-Xlint:-options",
            "-cp",
            java / "classes",
            "-d",
            tmp_path,
            tmp_path / "Steps.java",
        )
        command = ["java", f"-Djava.library.path={java}", "-cp", f"{java / 'classes'}:{tmp_path}", "Steps"]
    else:
        (tmp_path / "main.swift").write_text(SWIFT_STEPS, encoding="utf-8")
        compiled_swift(request.getfixturevalue("swift"), tmp_path / "steps", tmp_path / "main.swift")
        command = [tmp_path / "steps"]
    lines = ran(*command, path, 4).stdout.splitlines()
    assert lines[:-1] == [f"{step + 1} 8 {value}" for step, value in enumerate(previews(path, 4))]
    assert lines[-1] == "cancelled after step 4 of 8"
    assert len(ran(*command, path, 99).stdout.splitlines()) == 8


# --- what the READMEs and docs/embedding-mobile.md show ---


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.long
def test_the_swift_of_the_readme_runs(swift, files, tmp_path):
    one_call, host = blocks(IOS / "README.md", "swift")
    assert len(one_call.splitlines()) <= 10
    (tmp_path / "main.swift").write_text(
        f"{one_call}\nprint([UInt8](UnsafeRawBufferPointer(start: pixels.bytes, count: pixels.length)))\n",
        encoding="utf-8",
    )
    (tmp_path / "unet.sampler.onnx").symlink_to(files("sampler"))
    (tmp_path / "unet.slice.onnx").symlink_to(files("slice", ("guidance",)))
    compiled_swift(swift, tmp_path / "program", tmp_path / "main.swift")
    found = json.loads(ran(tmp_path / "program", cwd=tmp_path).stdout)
    assert found == generate(files("sampler"), n=4, seed=7, label=[0, 1, 2, 3]).ravel().tolist()
    (tmp_path / "main.swift").write_text(f"{host}\nprint(pictures.pixels)\n", encoding="utf-8")
    compiled_swift(swift, tmp_path / "program", tmp_path / "main.swift")
    *progress, pixels = ran(tmp_path / "program", cwd=tmp_path).stdout.splitlines()
    assert progress == [f"{step} of 8" for step in range(1, 9)]
    expected = generate(files("slice", ("guidance",)), n=4, seed=7, label=[7, 8], guidance=2.0)
    assert json.loads(pixels) == expected.ravel().tolist()


def kotlin(out, classpath, *sources):
    """Compile with Kotlin's compiler, which the Jupyter kernel's wheel carries; return the standard library's jar."""
    kernel = pytest.importorskip(
        "run_kotlin_kernel", reason="no Kotlin compiler: pip install --no-deps kotlin-jupyter-kernel"
    )
    jars = Path(kernel.__path__[0]) / "jars"
    (stdlib,) = jars.glob("kotlin-stdlib-[0-9]*.jar")
    ran(
        *("java", "-cp", ":".join(map(str, jars.glob("*.jar"))), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"),
        *("-Werror", "-no-stdlib", "-no-reflect", "-jvm-target", "1.8"),
        *("-cp", ":".join(map(str, (stdlib, *classpath))), "-d", out, *sources),
    )
    return stdlib


@pytest.mark.long
def test_the_kotlin_of_the_readme_runs(java, files, tmp_path):
    one_call, host = blocks(ANDROID / "README.md", "kotlin")
    assert len([line for line in one_call.splitlines() if line]) <= 10
    texts = []
    for k, block in enumerate((one_call, host)):
        imports = [line for line in block.splitlines() if line.startswith("import ")]
        body = [line for line in block.splitlines() if not line.startswith("import ")]
        given = "model: ByteArray, cancelled: Boolean, show: (Any) -> Unit"
        head = f"fun block{k}({given}): ByteArray {{"
        result = "ByteArray(pixels.remaining()).also { pixels.get(it) }" if k == 0 else "pictures.pixels"
        (tmp_path / f"Block{k}.kt").write_text("\n".join([*imports, head, *body, f"return {result} }}"]), "utf-8")
        texts.append(tmp_path / f"Block{k}.kt")
    main = """
        fun main(arguments: Array<String>) {
            val (sampler, slice) = arguments.map { java.io.File(it).readBytes() }
            println(block0(sampler, false, {}).map { it.toInt() and 0xFF })
            println(block1(slice, false, {}).map { it.toInt() and 0xFF })
        }
    """
    (tmp_path / "Main.kt").write_text(main, encoding="utf-8")
    stdlib = kotlin(tmp_path / "out", [java / "classes"], *texts, tmp_path / "Main.kt")
    classpath = ":".join(map(str, (java / "classes", stdlib, tmp_path / "out")))
    slices = files("slice", ("guidance",))
    done = ran("java", f"-Djava.library.path={java}", "-cp", classpath, "MainKt", files("sampler"), slices)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0] == generate(files("sampler"), n=4, seed=7, label=[0, 1, 2, 3]).ravel().tolist()
    assert found[1] == generate(slices, n=4, seed=7, label=[7, 8], guidance=2.0).ravel().tolist()


# --- the apps ---


def test_the_ios_apps_files_parse(swift):
    """Apple's SDK is not here: all that can be said of them is that they are Swift."""
    ran("swiftc", "-frontend", "-parse", *sorted((IOS / "App").glob("*.swift")))


def test_the_ios_project_names_what_is_there():
    project = (IOS / "App" / "project.yml").read_text(encoding="utf-8")
    paths = re.findall(r"path: (\S+)", project)
    assert len(paths) == 4
    assert {path for path in paths if path.endswith(".swift")} == {f.name for f in (IOS / "App").glob("*.swift")}
    made = [path for path in paths if not (IOS / "App" / path).exists() or path.endswith(".onnx")]
    assert made == ["unet.slice.onnx"]
    assert "--out examples/ios/App/unet.slice.onnx" in (IOS / "README.md").read_text(encoding="utf-8")
    manifest = (IOS / "Package.swift").read_text(encoding="utf-8")
    for product in re.findall(r"product: (\S+)", project):
        assert f'.library(name: "{product}"' in manifest


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    """The app's manifest, layout and texts through Android's own resource compiler: the folder of its R.java."""
    needs(aapt2="aapt", dpkg_query="dpkg")
    command = ["dpkg-query", "--listfiles", "android-framework-res"]
    package = subprocess.run(command, capture_output=True, text=True, check=False)
    framework = next((line for line in package.stdout.splitlines() if line.endswith(".apk")), None)
    if framework is None:
        pytest.skip("no resources of Android: apt install android-framework-res")
    folder = tmp_path_factory.mktemp("resources")
    source = ANDROID / "app" / "src" / "main"
    manifest = (source / "AndroidManifest.xml").read_text(encoding="utf-8")
    # Gradle adds these three from build.gradle.kts
    manifest = manifest.replace("<manifest ", '<manifest package="ddpm.sample" ')
    (folder / "AndroidManifest.xml").write_text(manifest, encoding="utf-8")
    ran("aapt2", "compile", "--dir", source / "res", "-o", folder / "compiled.zip")
    ran(
        *("aapt2", "link", "-I", framework, "--manifest", folder / "AndroidManifest.xml", "--java", folder / "java"),
        *("--min-sdk-version", 26, "--target-sdk-version", 36, "-o", folder / "app.apk", folder / "compiled.zip"),
    )
    return folder / "java"


@pytest.mark.long
def test_the_android_app_compiles_against_androids_signatures(java, resources, tmp_path):
    """Android's classes are signatures alone."""
    signatures = (ROOT / "tests" / "examples" / "stubs").rglob("*.java")
    sources = [*signatures, *resources.rglob("*.java")]
    ran("javac", "--release", "8", "-Xlint:all,-options", "-Werror", "-d", tmp_path / "stubs", *sources)
    main = (ANDROID / "app" / "src" / "main").rglob("*.kt")
    kotlin(tmp_path / "app", [java / "classes", tmp_path / "stubs"], *main)
    assert (tmp_path / "app" / "ddpm" / "sample" / "MainActivity.class").is_file()
    texts = (ANDROID / "README.md").read_text(encoding="utf-8")
    assert "--out examples/android/unet.slice.onnx" in texts
    assert 'file("../unet.slice.onnx")' in (ANDROID / "app" / "build.gradle.kts").read_text(encoding="utf-8")
