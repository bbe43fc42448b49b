#!/usr/bin/env python3
"""Plants bugs in copies of the scheduler's files, one at a time, and lets the simulator find them.

  planted.py BUILD             checks that every patch still applies, and plants those of each test run
  planted.py BUILD --all       plants them all
  planted.py BUILD 07 12       plants these

BUILD is a build directory of Ninja's in which scheduler_simulation was built (build/cpu). Of each bug only
the files that its patch changes are compiled; the rest is BUILD's. A bug is found when the simulator says
what is wrong, and names the seed.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PATCHES = sorted((HERE / "planted").glob("*.patch"))
IN_EACH_TEST_RUN = ["01", "02", "03", "04", "05"]
SEEDS = 1000
SECONDS_MAX = 180


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def number_of(patch):
    return patch.name.split("-")[0]


def apply(patch, tree, *flags):
    done = run(["git", "apply", *flags, str(patch)], cwd=tree)
    return done.stderr.strip()


class Build:
    """How BUILD compiles the scheduler's files and links the simulator."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        if not (self.folder / "build.ninja").exists():
            sys.exit(f"planted.py: {folder} has no build.ninja; configure it with: cmake --preset cpu")
        database = json.loads(run(["ninja", "-C", self.folder, "-t", "compdb"], check=True).stdout)
        self.compile = {entry["file"]: entry["command"] for entry in database}
        commands = run(["ninja", "-C", self.folder, "-t", "commands", "scheduler_simulation"], check=True)
        self.link = commands.stdout.strip().splitlines()[-1]

    def shell(self, command):
        done = run(command, shell=True, cwd=self.folder)
        if done.returncode != 0:
            sys.exit(f"planted.py: {command}\n{done.stdout}{done.stderr}")

    def object_of(self, tree, file):
        """Compiles tree/file as BUILD compiles its own."""
        source, target = tree / file, tree / (file.replace("/", "_") + ".o")
        command = self.compile[str(ROOT / file)]
        command = re.sub(r"-o \S+", f"-o {target}", command)
        command = re.sub(r"-MF \S+", f"-MF {target}.d", command)
        self.shell(command.replace(f"-c {ROOT / file}", f"-c {source}"))
        return target

    def simulator(self, tree, files):
        """The simulator with these files of the tree in place of BUILD's."""
        target = tree / "scheduler_simulation"
        objects = " ".join(str(self.object_of(tree, file)) for file in files)
        self.shell(re.sub(r"-o \S*scheduler_simulation", f"{objects} -o {target}", self.link))
        return target


def plant(build, patch):
    """Whether the simulator finds it."""
    files = re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for file in files:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tree / file)
        apply(patch, tree)
        simulator = build.simulator(tree, files)
        try:
            done = run([simulator, "--seeds", str(SEEDS)], timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            print(f"{patch.stem}: not found in {SECONDS_MAX} s")
            return False
    said = done.stderr.strip().splitlines()
    found = done.returncode == 1 and said and said[-1].startswith("replay: ")
    if found:
        print(f"{patch.stem}: found: {said[-2]} ({said[-1]})", flush=True)
    else:
        print(f"{patch.stem}: NOT FOUND in {SEEDS} seeds\n{done.stdout}{done.stderr}", flush=True)
    return found


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    stale = {patch.name: error for patch in PATCHES if (error := apply(patch, ROOT, "--check"))}
    for name, error in stale.items():
        print(f"{name} no longer applies; write it anew against the code as it is:\n{error}")
    if stale:
        sys.exit(1)
    wanted = sys.argv[2:] or IN_EACH_TEST_RUN
    chosen = [patch for patch in PATCHES if wanted == ["--all"] or number_of(patch) in wanted]
    if not chosen:
        sys.exit(f"planted.py: no bug has a number in {wanted}; there are {len(PATCHES)}, 01 and on")
    build = Build(sys.argv[1])
    found = sum(plant(build, patch) for patch in chosen)
    print(f"{len(PATCHES)} patches apply; {found} of {len(chosen)} planted bugs found")
    sys.exit(found != len(chosen))


if __name__ == "__main__":
    main()
