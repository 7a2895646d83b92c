"""What converters of precisions share."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compressor.errors import ExportError


@contextmanager
def converting(precision: str, source: Path) -> Iterator[None]:
    """Without the advice that converters log and print: no one can take it; what they raise is an `ExportError`."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's tools raise what they like
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ExportError(f"export.precision: {precision}: cannot convert {source.name}: {reason}") from error
    finally:
        logging.disable(before)
