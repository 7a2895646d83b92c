"""What may run on a page: its own script, and by its Content-Security-Policy nothing else."""

import base64
import hashlib
import html
import re


def assert_only_its_own_script_runs(text):
    """One script, without source, whose digest is the only one that the policy allows."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert text.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert html.unescape(policy) == (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")
