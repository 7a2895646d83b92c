"""ONNX Runtime's execution providers by short names. Imports no runtime, so a command line can read it at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

__all__ = ["PROVIDERS", "Device", "Provider", "device_of", "providers"]

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_GPU_LIBRARIES: Final = (
    "check that nvidia-smi lists a GPU and that the {} libraries that onnxruntime-gpu needs are installed"
)

_EXTERNAL: Final = b"\x08location"  # key of a tensor's external data, as ONNX's protobuf has it

Device = Literal["cpu", "cuda"]
Options = Callable[[Path, int | None], Mapping[str, str]]  # file, threads → options of the provider


@dataclass(frozen=True)
class Provider:
    """One of them.

    Attributes:
        name: short name
        chain: ONNX Runtime's names, of it and of those that take the nodes it has no kernel for (shape arithmetic, say)
        device: where its tensors are kept, as ONNX Runtime calls it
        needs: what to do where it does not work
        options: of the provider for a file, as ONNX Runtime takes them
        cuda_graph: options by which it replays the model as one CUDA graph; none: it cannot
    """

    name: str
    chain: tuple[str, ...]
    device: Device = "cpu"
    needs: str = ""
    options: Options = lambda file, threads: {}
    cuda_graph: Mapping[str, str] = field(default_factory=dict)


def _tensorrt(file: Path, threads: int | None) -> dict[str, str]:
    """Keep engines, which take minutes to build, and every session of a file needs.

    An engine has the weights, and ONNX Runtime takes one for a file of the same graph whatever its weights are: so each
    file has a folder of its own, and one whose weights lie in other files has none.
    """
    from compressor.files import cache_folder, sha256_of

    folder = cache_folder() / "tensorrt"
    own = folder if _EXTERNAL in file.read_bytes() else folder / sha256_of(file)[:24]
    try:
        own.mkdir(parents=True, exist_ok=True)  # TensorRT's provider makes no parents
    except OSError:  # then engines are built each time
        return {}
    kept = {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(folder)}
    if own == folder:
        return kept
    return kept | {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(own)}


def _openvino(file: Path, threads: int | None) -> dict[str, str]:
    return {} if threads is None else {"num_of_threads": str(threads)}


_KNOWN: Final = {
    one.name: one
    for one in (
        Provider("cpu", (_CPU,)),
        Provider(
            "cuda",
            (_CUDA, _CPU),
            device="cuda",
            needs=_GPU_LIBRARIES.format("CUDA and cuDNN"),
            cuda_graph={"enable_cuda_graph": "1"},
        ),
        Provider(
            "tensorrt",
            ("TensorrtExecutionProvider", _CUDA, _CPU),
            device="cuda",
            needs=_GPU_LIBRARIES.format("CUDA, cuDNN and TensorRT"),
            options=_tensorrt,
            cuda_graph={"trt_cuda_graph_enable": "True"},  # "1" is no value of TensorRT's
        ),
        Provider(
            "openvino",
            ("OpenVINOExecutionProvider", _CPU),
            needs="install onnxruntime-openvino in place of the other builds of ONNX Runtime",
            options=_openvino,
        ),
        Provider(
            "coreml",
            ("CoreMLExecutionProvider", _CPU),
            needs="install onnxruntime on macOS",
        ),
    )
}
PROVIDERS: Final = ("auto", *_KNOWN)


def providers() -> dict[str, Provider]:
    """All of them by short name; "auto" stands for one and is not among them."""
    return dict(_KNOWN)


def device_of(provider: str) -> str:
    """Name the device, as ONNX Runtime calls it, on which a provider (short name) keeps its tensors."""
    return _KNOWN[provider].device
