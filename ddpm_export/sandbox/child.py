"""A process of its own for files from strangers, which can hang, fill the memory or crash what opens them.

The child reads its options, tells its parent in one line what it is about to open, binds itself (`confine`) and only
then opens it. The parent waits, ends it at its limit, and says in a sentence how it ended; neither NumPy nor a runtime
is imported there, and what only the child needs is imported in functions, as every start is a parent's first.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_export import errors
from ddpm_export.errors import BadFileError, DdpmExportError, EnvironmentProblem, UsageError
from ddpm_export.sandbox.places import folder_in, place_for, share, take
from ddpm_export.system.processor import cores

if TYPE_CHECKING:
    from concurrent.futures import Future


TIMEOUT_S, MEMORY_GIB = 600.0, 16.0
GRACE_S = 0.5  # for a child that is asked to stop to put its terminal in order
MAX_ANSWER = 2**26  # characters of one answer of a worker
# the search path is the parent's: Python's own would begin with the working directory, which may be a stranger's
BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; "
    "from ddpm_export.sandbox.child import be_child as b; b()"
)

_terms: int | None = None  # in a child: where its parent reads what it is about to open


class Confined(NamedTuple):
    """Say where a confined process may write, in place of the output asked for, and what holds it."""

    place: Path | None
    guards: list[str]


def run_in_child(target: str, arguments: Sequence[str]) -> int:
    """Run `module:function` with a command line's arguments in a child and return its exit code.

    Raises BadFileError where the file that it opened crashed it or made it run into a limit. A picture that it was to
    make takes its name only when all went well.
    """
    child = _Child(target, arguments)
    try:
        terms = child.terms()
        with child.deadline(terms.get("timeout_s")):
            code = child.wait()
        child.check()
        if code == 0 and "out" in terms:
            take(terms["what"], Path(terms["place"]), Path(terms["out"]))
    except KeyboardInterrupt:
        if child.end() == 130:  # it has said so itself
            return 130
        raise
    finally:
        child.end()
    return code


class Worker:
    """A child that answers questions, and is started again for the next one after it has ended.

    target: `module:function`, which binds the child with `confine` and then calls `answer`.
    """

    def __init__(self, target: str, *arguments: str) -> None:
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and no command has workers

        self._started = target, arguments
        self._child: _Child | None = None
        self._asking = ThreadPoolExecutor(1)  # a child ends with the thread that started it

    def ask(self, *question: Any, timeout_s: float) -> Any:
        """Return what the child's function returns for these arguments, which are JSON, or raise the error it raises.

        Raises BadFileError where it takes longer or ends the child; the first question waits for the start as well.
        Several threads may ask, and wait for one another.
        """
        return self.begin(*question, timeout_s=timeout_s).result()

    def begin(self, *question: Any, timeout_s: float) -> "Future[Any]":
        """Return the answer to come."""
        return self._asking.submit(self._asked, json.dumps(question), timeout_s)

    def end(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.end()
        self._child = None

    def _asked(self, question: str, timeout_s: float) -> Any:
        child = self._child = self._child or _Child(*self._started, pipes=True)
        process: Any = child.process  # whose pipes are there
        line = ""
        with child.deadline(timeout_s), suppress(BrokenPipeError):
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
            line = process.stdout.readline(MAX_ANSWER)
        try:
            answer = json.loads(line)
            if "error" not in answer:
                return answer["value"]
            kind, text = answer["error"]
        except (ValueError, TypeError, KeyError, RecursionError) as exc:  # it ended, or says what ours never would
            self.end()
            child.check()
            raise BadFileError(f"{child.terms().get('what', 'the model')}: its process gave no answer.") from exc
        found = getattr(errors, kind, None)
        if isinstance(found, type) and issubclass(found, DdpmExportError):
            raise found(text)
        raise BadFileError(text)


def answer(function: Callable[..., Any]) -> None:
    """Answer a worker's questions by a function, in the child, until there are no more."""
    to_parent = sys.stdout
    for line in sys.stdin:
        try:
            inputs: dict[str, Any] = {"value": function(*json.loads(line))}
        except DdpmExportError as exc:
            inputs = {"error": [type(exc).__name__, str(exc)]}
        to_parent.write(json.dumps(inputs) + "\n")
        to_parent.flush()


class _Child:
    """Hold a process, what it said that it opens, and the end it is given; it does not outlive its parent's thread."""

    def __init__(self, target: str, arguments: Sequence[str], *, pipes: bool = False) -> None:
        reading, writing = os.pipe()
        inputs = {"path": sys.path, "parent": os.getpid(), "terms": writing, "target": target, "name": sys.argv[0]}
        self._pipe = os.fdopen(reading, encoding="ascii")
        self._terms: dict[str, Any] | None = None
        self._expired: float | None = None
        self._kept: int | None = None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BEGIN, json.dumps(inputs), *arguments],
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else None,
                text=True,
                pass_fds=[writing],
                # an arena of glibc's takes 64 MiB of addresses, and each of many threads would like its own
                env={"MALLOC_ARENA_MAX": "8", **os.environ},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except OSError as exc:
            self._pipe.close()
            raise EnvironmentProblem(f"No process can be started: {exc.strerror or exc}.") from exc
        finally:
            os.close(writing)

    def terms(self) -> dict[str, Any]:
        """Wait for what the child is about to open and return it; nothing if it ends before, as with --help."""
        if self._terms is None:
            self._terms = json.loads(self._pipe.readline() or "{}")
            if "folder" in self._terms:
                with suppress(OSError):  # the child is gone, and its folder with it
                    self._kept = share(Path(self._terms["folder"]))
        return self._terms

    @contextmanager
    def deadline(self, timeout_s: float | None) -> Iterator[None]:
        """Kill the child if what is done within takes longer."""

        def expire() -> None:
            self._expired = timeout_s
            self._kill()

        timer = threading.Timer(timeout_s or 0.0, expire)
        if timeout_s is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def wait(self) -> int:
        """Return the child's exit code, or minus the number of the signal that ended it."""
        if self.process.returncode is None:  # Popen.wait, interrupted, would wait on for a quarter of a second
            self.process.returncode = os.waitstatus_to_exitcode(os.waitpid(self.process.pid, 0)[1])
        return self.process.returncode

    def end(self) -> int:
        """Return the exit code once the child is gone, stopped if need be, with whatever it had not finished."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._kill()
        code = self.process.wait()
        if "folder" in self.terms():
            import shutil

            shutil.rmtree(self.terms()["folder"], ignore_errors=True)
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None
        for stream in (self._pipe, self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        return code

    def check(self) -> None:
        """Raise the error for a child that ended by a signal or at its limit."""
        code, terms = self.process.returncode, self.terms()
        if code >= 0:
            return
        if "what" not in terms:
            raise EnvironmentProblem(f"The process that was to open the file ended by {signal.Signals(-code).name}.")
        if self._expired is not None or -code == signal.SIGXCPU:
            late = self._expired is not None
            much = f"longer than {self._expired:g} s" if late else f"more than {terms['cpu_s']} s of processor time"
            reason = f"takes {much}. {terms.get('remedy', '')}".rstrip(". ")
        elif -code == signal.SIGKILL:
            reason = (
                "its process was killed, as the system does when memory runs out. Lower the batch or the memory limit"
            )
        else:
            reason = f"crashes what opens it ({signal.Signals(-code).name}). Do not use this file unless you made it"
        raise BadFileError(f"{terms['what']}: {reason}.")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def be_child() -> None:
    """Be the child that a parent has just started: run what it was started for, with the arguments that follow."""
    global _terms
    from ddpm_export.sandbox.rules import end_with_parent

    inputs = json.loads(sys.argv.pop(1))
    sys.argv[0], _terms = inputs["name"], inputs["terms"]
    os.set_inheritable(inputs["terms"], False)
    end_with_parent(inputs["parent"])
    module, _, function = inputs["target"].partition(":")
    try:
        getattr(import_module(module), function)()
    except SystemExit as ending:
        if not isinstance(ending.code, int):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending.code)  # a graph that is still at work is not waited for


def is_child() -> bool:
    """Say whether a parent waits to hear what this process is about to open."""
    return _terms is not None


def confine(
    model: Path,
    *,
    what: str = "",
    timeout_s: float | None = TIMEOUT_S,
    memory_gib: float = MEMORY_GIB,
    out: Path | None = None,
    reads: Iterable[Path] = (),
    writes: Sequence[Path] = (),
    scratch: bool = False,
    fully: bool = True,
    remedy: str = "Give it more time if you trust it",
) -> Confined:
    """Bind this process for good, before it opens the model and before it starts a thread.

    what: the names of all it opens, where the model is not alone. timeout_s: how long it may go on, and how much
    processor time each core may spend; None where each answer of a worker has a limit. memory_gib: of addresses. out:
    an output, file or folder, to write in the place that is returned. reads, writes: what else it uses. scratch:
    whether `writes` are folders to make, the first of which holds temporary files in a folder that the parent removes.
    fully: not only limits of time, but of memory, files, sockets and processes as well; a GPU, PyTorch and the hub need
    those. remedy: where time is up.

    Raises UsageError for limits that are none and where no parent waits, EnvironmentProblem where the output cannot be
    written.
    """
    global _terms
    if _terms is None:
        raise UsageError("`untrusted` needs Linux or macOS, and the command ddpm-run.")
    for name, value in (("timeout", timeout_s), ("memory", memory_gib)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be a number above 0, got {value!r}.")
    terms: dict[str, Any] = {"what": what or str(model), "remedy": remedy}
    guards = []
    if timeout_s is not None:
        terms |= {"timeout_s": timeout_s, "cpu_s": math.ceil(timeout_s * cores())}
        guards.append(f"{timeout_s:g} s")
    place = None
    with _undisturbed():
        if out is not None:
            place = place_for(out)
            terms |= {"out": str(out), "place": str(place), "folder": str(place.parent)}
        if scratch:
            terms["folder"] = _scratch_in(writes)
        os.write(_terms, json.dumps(terms).encode() + b"\n")
    os.close(_terms)
    _terms = None
    _mute()
    import resource  # Windows has none

    from ddpm_export.sandbox.rules import libraries, no_other_calls, no_other_files

    _limit(resource.RLIMIT_CORE, 0)
    if timeout_s is not None:
        _limit(resource.RLIMIT_CPU, terms["cpu_s"], spare=1)
    if fully:
        _limit(resource.RLIMIT_AS, int(memory_gib * 2**30))
        readable = [model.parent, model.resolve(), *reads, *libraries()]
        files = no_other_files(readable, [*writes, *([] if place is None else [place.parent])])
        guards += [f"{memory_gib:g} GiB", *filter(None, (files, no_other_calls()))]
    return Confined(place, guards)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let SIGTERM wait: a parent removes only a folder that it was told of."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _scratch_in(folders: Sequence[Path]) -> str:
    """Make these folders, and in the first of them one for temporary files; return it."""
    import tempfile

    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder_in(folders[0], "scratch"))
    except OSError as exc:
        raise EnvironmentProblem(f"{folders[0]} cannot be written: {exc.strerror}. Choose another `out`.") from exc
    return tempfile.tempdir


def _limit(kind: int, amount: int, spare: int = 0) -> None:
    """Set a limit of the system, never above what it is; with `spare` more, a process that goes on is killed."""
    import resource

    _, hard = resource.getrlimit(kind)
    most = amount + spare if hard == resource.RLIM_INFINITY else min(amount + spare, hard)
    with suppress(ValueError, OSError):  # macOS has no limit of addresses
        resource.setrlimit(kind, (min(amount, most), most))


def _mute() -> None:
    """Let only Python print: a library that aborts has a say of its own, and an error is one line."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
            kept = os.fdopen(os.dup(number), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
            setattr(sys, name, kept)
        os.dup2(nothing, number)
