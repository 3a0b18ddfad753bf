"""Run the page's program in Node.js: the same text that the page starts its worker from."""

import json
import shutil
import subprocess

import pytest

from ovsdino_export.web.page import program_source

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def evaluate(folder, expression, given=None):
    """Evaluate an expression of the program; `given` is what it may use, as JSON.

    What the program refuses as the user's mistake comes back as {"refused": message}.
    """
    body = program_source().removeprefix("function program() {\n").removesuffix("}\n")
    harness = (
        "'use strict';\nglobalThis.self = globalThis;\n"
        "const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
        f"{body}\n"
        "const attempt = (work) => { try { return work(); } catch (error) {"
        " if (error instanceof UserError) return { refused: error.message }; throw error; } };\n"
        "const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);\n"
        f"Promise.resolve({expression})\n"
        "  .then((result) => process.stdout.write(JSON.stringify(result, plain)))\n"
        "  .catch((error) => { console.error(error); process.exit(1); });\n"
    )
    file = folder / "program.js"
    file.write_text(harness, encoding="utf-8")
    done = subprocess.run([NODE, file], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
