"""The machine that a latency was measured on: a latency means nothing on another one."""

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

__all__ = ["machine_fingerprint", "physical_cores", "usable_cores"]

# Instruction sets that ONNX Runtime's CPU kernels choose by. Virtual machines often hide the processor's
# name ("AMD EPYC" alone), so these and the model numbers distinguish machines whose names are equal.
_ISA = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

# Fields that make `id`: those that move a latency. Python's and the kernel's versions do not, measurably.
_ID_FIELDS = (
    "system",
    "cpu",
    "isa",
    "physical_cores",
    "logical_cores",
    "usable_cores",
    "gpu",
    "gpu_driver",
    "onnxruntime",
)


def machine_fingerprint() -> dict[str, str | int]:
    """Describe this machine and this process's share of it.

    Returns:
        cpu: processor's name, with family, model and stepping where the system reports them;
        isa: instruction sets that matter for inference, space-separated, "" where the system does not report it;
        physical_cores, logical_cores: of the machine;
        usable_cores: logical cores that this process may run on;
        memory_gib: main memory in GiB, rounded, 0 where the system does not report it;
        system: for example "Linux x86_64"; os: the long form, with versions;
        python, onnxruntime: versions;
        gpu: names of the NVIDIA GPUs and gpu_driver: their driver, "none" where nvidia-smi finds none;
        id: 16 hex digits, equal for two machines whose latencies may be compared.
    """
    gpu, driver = _gpu()
    facts: dict[str, str | int] = {
        "cpu": _cpu(),
        "isa": _isa(),
        "physical_cores": physical_cores(),
        "logical_cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "os": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": _onnxruntime_version(),
        "gpu": gpu,
        "gpu_driver": driver,
    }
    key = "\n".join(f"{name}={facts[name]}" for name in _ID_FIELDS)
    return facts | {"id": hashlib.sha256(key.encode()).hexdigest()[:16]}


def usable_cores() -> int:
    """Count the logical cores that this process may run on (container quotas are not seen here)."""
    # Linux alone has it.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Count the machine's physical cores; its logical cores where the system does not report it."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    cores = {_text(path) for path in siblings} - {""}
    if cores:
        return len(cores)
    printed = _output("sysctl", "-n", "hw.physicalcpu") if sys.platform == "darwin" else ""
    return int(printed) if printed.isdigit() else os.cpu_count() or 1


def _cpu() -> str:
    if sys.platform == "darwin":
        name = _output("sysctl", "-n", "machdep.cpu.brand_string")
        return name or platform.processor() or platform.machine()
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    # x86 gives the first three, Arm the last two; Arm's name is often no more than "aarch64".
    keys = ("cpu family", "model", "stepping", "cpu implementer", "cpu part")
    numbers = ", ".join(f"{key} {info[key]}" for key in keys if key in info)
    return f"{name} ({numbers})" if numbers else name


def _isa() -> str:
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("features") or "").split()
    return " ".join(name for name in _ISA if name in flags)


def _cpuinfo() -> dict[str, str]:
    """Read the first processor's block of /proc/cpuinfo, keys in lower case; empty where there is none."""
    first = _text(Path("/proc/cpuinfo")).split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _memory_gib() -> int:
    if sys.platform == "win32":
        kibibytes = ctypes.c_ulonglong(0)
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))
        return round(kibibytes.value / 2**20)
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _gpu() -> tuple[str, str]:
    """Ask nvidia-smi for the names and the driver version of the GPUs; ("none", "none") without it."""
    printed = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    rows = [line.rpartition(",") for line in printed.splitlines() if "," in line]
    if not rows:
        return "none", "none"
    return "; ".join(name.strip() for name, _, _ in rows), rows[0][2].strip()


def _onnxruntime_version() -> str:
    # Imported here: the rest of this module is needed by tools that have no reason to load the runtime.
    import onnxruntime

    return str(onnxruntime.__version__)


def _output(*command: str) -> str:
    """Run a program and return what it prints; "" where it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _text(path: Path) -> str:
    """Read a file of the system; "" where it is absent or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
