"""`compressor export --triton`: a run's file, or any ONNX file, into a model repository of Triton."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".onnx"
_BATCH = 8  # most requests run together of a file whose batch was never measured


def add_to_repository(source: Path, repository: Path, trust: bool = False) -> Path:
    """Add the file of a run folder, as it was measured, or an ONNX file; returns its place in the repository.

    Raises:
        RunError: the repository is a file, or cannot be written
        ModelError: there is no such ONNX file, or it is none
        ExportError: see `compressor.exporters.triton.write_triton`
    """
    from compressor.cli.inspection import inspect_file
    from compressor.errors import RunError
    from compressor.exporters.triton import write_triton

    if repository.exists() and not repository.is_dir():
        raise RunError(f"--triton: {repository} is a file; name a folder, the model repository")
    path = source if source.suffix == SUFFIX else source / "model.onnx"
    facts = inspect_file(path)
    classes = facts["metadata"].get("classes")
    provider, threads, batch = "cpu", None, _BATCH
    if source != path:
        from compressor.pipeline import run_folder
        from compressor.pipeline.records import LatencyRecord

        config = run_folder.load(source, trust).measured
        provider, threads, batch = config.provider, config.threads, config.batch
        if (measured := source / "latency.json").exists():  # what `auto` stood for
            provider = LatencyRecord.read(measured).networks["result"].provider
    return write_triton(
        path,
        repository,
        source.resolve().stem if source == path else source.resolve().name,
        provider=provider,
        threads=threads,
        batch=batch,
        classes=[str(one) for one in classes] if isinstance(classes, list) else [],
    )
