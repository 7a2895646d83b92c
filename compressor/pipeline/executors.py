"""Where the parts of a sweep run: on a Ray cluster. Without one they run one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compressor.errors import UnavailableError


def map_on_ray(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], address: str, *, cpus: int, gpus: int
) -> list[Any]:
    """Call a function of an installed module once for each tuple of arguments, each call a Ray task.

    Args:
        function: what to call; arguments and results must be picklable
        calls: arguments of each call
        address: of the cluster, "auto" for one that runs here, "local" to start one on this machine
        cpus: of each task
        gpus: of each task

    Returns:
        results in the order of the calls

    Raises:
        UnavailableError: Ray is not installed, or no cluster answers
        whatever a call raises
    """
    try:
        import ray
    except ImportError as error:
        raise UnavailableError("--ray needs Ray, which is not installed: pip install 'onnx-compressor[ray]'") from error
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except Exception as error:  # of the network, of Ray, of its C++ core
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(
            f"--ray: {address!r} does not answer ({reason}); valid: HOST:PORT, auto, local"
        ) from error
    try:
        task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        return ray.get([task.remote(*arguments) for arguments in calls])  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    finally:
        ray.shutdown()
