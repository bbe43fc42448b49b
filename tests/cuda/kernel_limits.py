#!/usr/bin/python3
"""Compiles every kernel with nvcc, warnings as errors, and holds what ptxas reports against recorded ceilings.

    tests/cuda/kernel_limits.py                       all architectures; needs nvcc, no GPU
    tests/cuda/kernel_limits.py --arch 80             some of them
    tests/cuda/kernel_limits.py --record              writes what was found to cuda/kernel_limits.txt

cuda/kernel_limits.txt has a line for each kernel: the most registers of a thread and bytes of shared memory of a block that any
architecture may use. More, or a kernel that is not recorded, is a failure; so is a spill, or an array that lands in local memory, in
any kernel but the cold.
"""

import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMITS = ROOT / "cuda" / "kernel_limits.txt"
# Sines and cosines of large angles, in double, once a step for all layers.
COLD = ("RopeAnglesKernel",)
ARCHITECTURES = ("75", "80", "86", "89", "90")


class Use(typing.NamedTuple):
    """What a kernel takes; of several architectures, the most of each."""
    registers: int = 0
    shared_bytes: int = 0
    local_bytes: int = 0


def compile_one(nvcc: str, source: pathlib.Path, arch: str, folder: str) -> str:
    """Returns what nvcc and ptxas say; raises CalledProcessError with it where they refuse."""
    command = [nvcc, f"--options-file={ROOT}/cuda/nvcc.options", f"-I{ROOT}", f"-gencode=arch=compute_{arch},code=sm_{arch}",
               "-cubin", str(source), "-o", f"{folder}/{source.stem}.{arch}.cubin"]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def kernels_of(report: str) -> dict[str, Use]:
    """Returns what each kernel takes, from a report of `ptxas -v`."""
    found = {}
    name, local = "", 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            name, local = match[1], 0
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            local = max(local, int(match[1]) + int(match[2]))
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = Use(int(match[1]), int(shared[1]) if shared else 0, local)
            name = ""
    return found


def readable(names: list[str]) -> list[str]:
    """Returns the kernels' names as they are written, without their arguments."""
    plain = subprocess.run(["c++filt"], input="\n".join(names), text=True, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    short = []
    for name in plain:
        name = re.sub(r"\(tuppence::WeightType\)", "", name).removeprefix("void ")
        short.append(re.sub(r"tuppence::(cuda::)?", "", name[:name.rindex("(")]))
    return short


def measure(nvcc: str, architectures: list[str]) -> tuple[dict[str, Use], list[str]]:
    """Returns the most that each kernel takes over the architectures, and the complaints."""
    sources = sorted((ROOT / "cuda").glob("*.cu"))
    uses, complaints = {}, []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = {pool.submit(compile_one, nvcc, source, arch, folder): (source, arch) for source in sources for arch in architectures}
        for job in concurrent.futures.as_completed(jobs):
            source, arch = jobs[job]
            try:
                found = kernels_of(job.result())
            except subprocess.CalledProcessError as error:
                complaints.append(f"{source.name} for sm_{arch}: nvcc refuses it:\n{error.output}")
                continue
            for name, use in zip(readable(list(found)), found.values()):
                uses[name] = Use(*map(max, uses.get(name, Use()), use))
                if use.local_bytes > 0 and name not in COLD:
                    complaints.append(f"{name} for sm_{arch} keeps {use.local_bytes} bytes in local memory; make its tile smaller")
    return uses, complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        print("nvcc was not found: the kernels run emulated only")
        return 0
    uses, complaints = measure(nvcc, arguments.arch or list(ARCHITECTURES))
    if arguments.record:
        for complaint in complaints:
            print(complaint)
        if complaints:
            return 1
        LIMITS.write_text("".join(f"{use.registers:4d} {use.shared_bytes:6d} {name}\n" for name, use in sorted(uses.items())))
        print(f"recorded {len(uses)} kernels in {LIMITS.relative_to(ROOT)}")
        return 0
    limits = {}
    for line in LIMITS.read_text().splitlines():
        registers, shared_bytes, name = line.split(maxsplit=2)
        limits[name] = Use(int(registers), int(shared_bytes))
    for name, use in sorted(uses.items()):
        if name not in limits:
            complaints.append(f"{name} is not in {LIMITS.name}; run with --record")
            continue
        if use.registers > limits[name].registers:
            complaints.append(f"{name} uses {use.registers} registers; {limits[name].registers} are recorded")
        if use.shared_bytes > limits[name].shared_bytes:
            complaints.append(f"{name} uses {use.shared_bytes} bytes of shared memory; {limits[name].shared_bytes} are recorded")
    for name in sorted(set(limits) - set(uses)):
        complaints.append(f"{name} is recorded and no longer there; run with --record")
    for complaint in complaints:
        print(complaint)
    print(f"{len(uses)} kernels for sm_{', sm_'.join(arguments.arch or ARCHITECTURES)}: "
          f"{'nothing in local memory, registers and shared memory as recorded' if not complaints else f'{len(complaints)} complaints'}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
