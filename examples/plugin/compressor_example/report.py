"""A section of every run's report: what the result costs on a board that is paid by the megabyte and the megahertz."""

from compressor.report.sections import note, section, table

EUROS_PER_MEGABYTE, EUROS_PER_MILLION_MACS = 0.12, 0.03


def board(record):
    """A section for a record that has both numbers, else None."""
    megabytes, macs = record.get("onnx_bytes"), record.get("macs")
    if megabytes is None or macs is None:
        return None
    flash, compute = EUROS_PER_MEGABYTE * megabytes / 1e6, EUROS_PER_MILLION_MACS * macs / 1e6
    rows = [["flash", f"{flash:.3f}"], ["compute", f"{compute:.3f}"], ["both", f"{flash + compute:.3f}"]]
    return section("Board", table(["part", "euros"], rows), note("Prices of an example."))
