"""What a confined process asks of the kernel by number, and is denied; the table of numbers is the kernel's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_export.sandbox import calls

# name/x86-64/ARM64 and arguments: P is the parent, F the name and D the descriptor of a file that may be read only, B
# a buffer, L a limit. All of these got through, or failed for another reason, before the filter denied by default
DENIED = """
fchmodat/268/53 -100 F 384 0; chmod/90/- F 384; fchmod/91/52 D 384; fchown/93/55 D 0 0; utimensat/280/88 -100 F 0 0;
setxattr/188/5 F B B 1 0; fsetxattr/190/7 D B B 1 0; truncate/76/45 F 0; linkat/265/37 -100 F -100 B 0;
prlimit64/302/261 P 7 L 0; prlimit64/302/261 P 7 0 B; prlimit64/302/261 0 7 L 0; setrlimit/160/164 7 L;
setpriority/141/140 0 P 0; sched_setscheduler/144/119 P 0 B; sched_setaffinity/203/122 P 8 B;
sched_getaffinity/204/123 P 8 B; ioprio_set/251/30 1 P 0; migrate_pages/256/238 P 1 B B;
pidfd_send_signal/424/424 -1 0 0 0;
kill/62/129 P 0; kill/62/129 0 0; kill/62/129 -1 0; tkill/200/130 P 0; tgkill/234/131 P P 0; pidfd_open/434/434 P 0;
rt_sigqueueinfo/129/138 P 0 B; kcmp/312/272 P P 0 0 0; prctl/157/167 1 0 0 0 0; prctl/157/167 4 1 0 0 0;
shmget/29/194 0 4096 950; shmat/30/196 0 0 0; semget/64/190 0 1 950; msgget/68/186 0 950; mq_open/240/180 B 66 384 0;
keyctl/250/219 0 -3 1; add_key/248/217 B B B 1 -3; request_key/249/218 B B 0 -3;
unshare/272/97 0x10000000; unshare/272/97 0x400; setns/308/268 D 0; clone/56/220 0x10000011 0 0 0 0;
clone/56/220 0x10010f00 0 0 0 0; clone3/435/435 B 88; fork/57/-; vfork/58/-; execve/59/221 B B B;
ptrace/101/117 0x4206 P 0 0; process_vm_readv/310/270 P B 1 B 1 0; process_vm_writev/311/271 P B 1 B 1 0;
mount/165/40 B B B 0 0; umount2/166/39 B 0; chroot/161/51 B; pivot_root/155/41 B B; fsopen/430/430 B 0;
bpf/321/280 0 B 64; io_uring_setup/425/425 1 B; userfaultfd/323/282 1; perf_event_open/298/241 B 0 -1 -1 0;
memfd_create/319/279 B 0; memfd_secret/447/447 0; open_by_handle_at/304/265 D B 0;
name_to_handle_at/303/264 -100 F B B 0;
socket/41/198 1 1 0; socketpair/53/199 1 1 0 B; seccomp/317/277 3 0 B; personality/135/92 0; setsid/112/157;
setuid/105/146 0; capset/126/91 B B; reboot/169/142 0 0 0 0; init_module/175/105 B 0 B; syslog/103/116 10 B 0;
ioctl/16/29 1 0x5412 B; fcntl/72/25 D 8 P; fcntl/72/25 D 1026 1; mknodat/259/33 -100 B 4096 0;
openat2/437/437 -100 B B 24;
inotify_init1/294/26 0; fanotify_init/300/262 0 0; timer_create/222/107 0 0 B; acct/163/89 0; swapon/167/224 B 0;
unknown/499/499
"""
ACT = """
import ctypes, json, os, resource, struct, sys
from pathlib import Path
from ddpm_export.sandbox import child
def act():
    column, parent, denied = sys.argv[1:]
    file = Path("m.onnx").absolute()
    open_file = os.open(file, os.O_RDONLY)
    limit = struct.pack("QQ", *resource.getrlimit(resource.RLIMIT_NOFILE))
    if "seccomp" not in child.confine(file).guards:
        sys.exit(9)
    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(4096)
    known = {"P": int(parent), "F": ctypes.c_char_p(bytes(file)), "D": open_file, "B": buffer, "L": limit}
    found = {}
    for line in denied.replace("\\n", " ").split(";"):
        call, *arguments = line.split()
        number = call.split("/")[int(column)]
        if number == "-":
            continue
        values = [known[word] if word in known else ctypes.c_long(int(word, 0)) for word in arguments]
        pid = os.getpid()
        value = libc.syscall(ctypes.c_long(int(number)), *values)
        if os.getpid() != pid:  # a child of its own
            os._exit(0)
        found[line.strip()] = os.strerror(ctypes.get_errno()) if value == -1 else f"did it: {value}"
    print(json.dumps(found))
"""


ANSWERS = {os.strerror(1), os.strerror(38)}
PARENT = "import sys; from ddpm_export.sandbox import child; sys.exit(child.run_in_child('stranger:act', sys.argv[1:]))"


def denied(folder):
    """Return what a child in a new folder is told for each of DENIED, by call; None where there is no seccomp."""
    (folder / "stranger.py").write_text(ACT)
    (folder / "m.onnx").write_bytes(b"x")
    before = (folder / "m.onnx").stat()
    column = str(calls.ARCHITECTURES[os.uname().machine][1])
    line = [sys.executable, "-c", PARENT, column, str(os.getpid()), DENIED]
    env = {**os.environ, "PYTHONPATH": f"{Path(calls.__file__).parents[2]}:{folder}"}
    done = subprocess.run(line, cwd=folder, env=env, stdout=subprocess.PIPE, check=False)
    assert done.returncode in (0, 9)
    assert (folder / "m.onnx").stat() == before
    return None if done.returncode else json.loads(done.stdout)


@pytest.mark.skipif(
    not hasattr(os, "uname") or os.uname().machine not in calls.ARCHITECTURES,
    reason="the filter of calls knows no other processor, nor Windows",
)
def test_what_is_not_needed_is_denied_and_changes_nothing(tmp_path):
    found = denied(tmp_path)
    if found is None:
        pytest.skip("needs a Linux with seccomp")
    assert len(found) > 80
    assert {call: answer for call, answer in found.items() if answer not in ANSWERS} == {}


HEADERS = {1: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 2: Path("/usr/include/asm-generic/unistd.h")}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_are_those_of_the_kernel(column):
    if not HEADERS[column].exists():
        pytest.skip("needs the headers of Linux")
    text = HEADERS[column].read_text().replace("__NR3264_", "__NR_").replace("_fstatat ", "_newfstatat ")
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", text))
    for call, _ in calls._answers(1):
        name, number = call.split("/")[0], call.split("/")[column]
        assert numbers.get(name, "-") == number, call
