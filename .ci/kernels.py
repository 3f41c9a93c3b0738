"""Compiles the CUDA kernels as the services do at run time, assembles them, and looks at the outcome.

NVRTC needs no GPU; ptxas tells the registers, and whether any of them spill.
"""

import ctypes
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

COMMON = pathlib.Path(__file__).resolve().parent.parent / "common" / "src"
LIST = COMMON / "kernels" / "cuda" / "source.rs"
STAND_IN = COMMON.parent / "tests" / "cuda" / "driver.cpp"
LAUNCHES = COMMON / "kernels" / "cuda" / "mod.rs"
# PTX for the oldest architecture runs on every later one, too.
PTX = "compute_80"
ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100"]
OPTIONS = [f"--gpu-architecture={PTX}", "--fmad=false"]


def toolkit():
    """The folder of NVIDIA's wheels."""
    return pathlib.Path(importlib.util.find_spec("nvidia.cu13").submodule_search_locations[0])


class Nvrtc:
    """NVRTC through its C interface."""

    def __init__(self, folder):
        # NVRTC opens this one by its name alone, which works once it is loaded.
        ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so.*"))))
        self.library = ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))

    def call(self, name, *arguments):
        return getattr(self.library, name)(*arguments)

    def text(self, program, name):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{name}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{name}", program, text)
        return text.value.decode()

    def compile(self, source):
        """PTX, and what the compiler had to say."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        options = (ctypes.c_char_p * len(OPTIONS))(*(option.encode() for option in OPTIONS))
        status = self.call("nvrtcCompileProgram", program, len(OPTIONS), options)
        log = self.text(program, "ProgramLog")
        if status != 0:
            sys.exit(f"the kernels do not compile:\n{log}")
        return self.text(program, "PTX"), log


def assemble(ptxas, ptx, architecture):
    """What ptxas tells of each kernel: its name, registers and spilled bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "kernels.ptx"
        file.write_text(ptx)
        command = [ptxas, f"-arch={architecture}", "-v", "--warn-on-spills", file, "-o", file.with_suffix(".cubin")]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    told = outcome.stdout + outcome.stderr
    if outcome.returncode != 0 or "warning" in told:
        sys.exit(f"{architecture}: {told}")
    kernels = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        told,
        re.DOTALL,
    )
    if not kernels:
        sys.exit(f"{architecture}: nothing was assembled:\n{told}")
    for name, stores, loads, _ in kernels:
        if int(stores) + int(loads) > 0:
            sys.exit(f"{architecture}: {name} spills registers:\n{told}")
    return {name: int(registers) for name, _, _, registers in kernels}


def kernels_source():
    """One text, in the order in which `common` puts it together, as the stand-in of the driver must."""
    names = re.findall(r'include_str!\("(.*?)"\)', LIST.read_text())
    included = re.findall(r'#include "(.*?src/.*?)"', STAND_IN.read_text())
    if [(LIST.parent / name).resolve() for name in names] != [(STAND_IN.parent / name).resolve() for name in included]:
        sys.exit(f"{STAND_IN.name} and {LIST.name} put other files together, or in another order")
    return "\n".join((LIST.parent / name).read_text() for name in names)


def launched():
    """The names of the kernels that `common` launches."""
    table = re.search(r"const KERNELS: .*? = \[(.*?)\];", LAUNCHES.read_text(), re.DOTALL)
    return set(re.findall(r'"(\w+)"', table.group(1)))


def main():
    root = toolkit()
    if f'"{PTX}"' not in LAUNCHES.read_text():
        sys.exit(f"{LAUNCHES.name} compiles for another architecture than {PTX}")
    ptx, log = Nvrtc(root / "lib").compile(kernels_source())
    if log.strip("\0 \n"):
        sys.exit(f"the compiler warns:\n{log}")
    # Without a rounding of its own, ptxas might fuse an operation with the next one; and no division or root
    # may be a quick one.
    if loose := re.findall(r"\b(?:add|sub|mul)\.(?:f32|f64)\b|\b(?:div|rcp|sqrt|rsqrt)\.(?:approx|full)\S*", ptx):
        sys.exit(f"{len(loose)} operations are rounded otherwise than on the CPU: {sorted(set(loose))}")
    table = {architecture: assemble(root / "bin" / "ptxas", ptx, architecture) for architecture in ARCHITECTURES}
    if (found := set(table[ARCHITECTURES[0]])) != launched():
        sys.exit(f"assembled and launched kernels differ: {sorted(found ^ launched())}")
    print("registers of a thread", *ARCHITECTURES, sep="\t")
    for name in table[ARCHITECTURES[0]]:
        print(name, *(table[architecture][name] for architecture in ARCHITECTURES), sep="\t")


if __name__ == "__main__":
    main()
