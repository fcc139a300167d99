"""Two pages for people: what is served here, to be tried with a photograph, and what every route takes and answers.

Without a template engine and without anything from elsewhere: a server may stand where no network is.
"""

import json
from html import escape
from typing import Any

from foveate.serve.protocol import Spec

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code, pre { font: 0.9em ui-monospace, monospace; background: var(--soft); border-radius: 4px; padding: 0.1em 0.3em; }
pre { padding: 0.8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: 0.3rem 0.5rem 0.3rem 0; }
tr { border-bottom: 1px solid var(--line); } .route { border-top: 1px solid var(--line); padding-top: 0.6rem; }
label { display: block; border: 1px dashed var(--line); border-radius: 8px; padding: 1.2rem; cursor: pointer; }
img { max-width: 100%; max-height: 14rem; display: block; margin: 0.8rem 0; }
img[hidden] { display: none; }
"""

SCRIPT = """
const [file, out, seen] = ["input", "#answer", "img"].map((what) => document.querySelector(what));
file.onchange = async () => {
  const photo = file.files[0];
  if (!photo) return;
  seen.src = URL.createObjectURL(photo); seen.hidden = false; out.textContent = "asking ...";
  const began = performance.now();
  try {
    const reply = await fetch(document.body.dataset.path, {
      method: "POST", body: photo,
      headers: {"Content-Type": photo.type || "image/jpeg", "Accept": "application/json"}});
    const text = JSON.stringify(await reply.json(), null, 1);
    out.textContent = `${reply.status}, ${(performance.now() - began).toFixed(0)} ms from here\n` +
      (text.length > 4000 ? text.slice(0, 4000) + " ..." : text);
  } catch (error) { out.textContent = String(error); }
};
"""


def start_page(spec: Spec, path: str) -> str:
    """What is served, a photograph to try it with, and where the rest is. path: takes a photograph."""
    about = {
        "model": spec.name, "answers with": spec.kind, "input": f"{spec.channels} x {spec.size[0]} x {spec.size[1]}",
        "output": f"{spec.output}, {' x '.join(map(str, spec.shape))}",
    }  # fmt: skip
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in about.items())
    command = f"curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://HOST{path}"
    return _page(
        spec.name,
        f"<h1>{escape(spec.name)}</h1><table>{rows}</table>"
        f"<h2>Try a photograph</h2><label>Choose a file <input type='file' accept='image/*'></label>"
        f"<img hidden alt='the photograph'><pre id='answer'>{escape(command)}</pre>"
        "<h2>More</h2><p><a href='docs'>every route</a> · <a href='openapi.json'>OpenAPI</a> · "
        f"<a href='v2/models/{escape(spec.name)}'>metadata</a> · <a href='metrics'>metrics</a></p>"
        f"<script>{SCRIPT}</script>",
        path,
    )


def docs_page(openapi: dict[str, Any], name: str) -> str:
    """Every route of an OpenAPI description: what it is for, what it takes and what it answers."""
    parts = []
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            text = escape(about.get("description") or about.get("summary") or "")
            takes = ", ".join(about.get("requestBody", {}).get("content", {}))
            answers = "".join(
                f"<tr><th>{escape(status)}</th><td>{escape(reply.get('description') or '')}</td>"
                f"<td>{escape(', '.join(reply.get('content', {})))}</td></tr>"
                for status, reply in about.get("responses", {}).items()
            )
            parts.append(
                f"<div class='route'><h2><code>{method.upper()} {escape(path)}</code></h2><p>{text}</p>"
                + (f"<p>Takes {escape(takes)}.</p>" if takes else "")
                + f"<table>{answers}</table></div>"
            )
    schemas = escape(json.dumps(openapi.get("components", {}).get("schemas", {}), indent=1))
    return _page(
        f"{name}: routes",
        f"<h1>{escape(name)}: routes</h1><p>Open Inference Protocol v2, and photographs as they are. "
        f"<a href='openapi.json'>The same as OpenAPI</a>.</p>{''.join(parts)}"
        f"<details><summary>Schemas</summary><pre>{schemas}</pre></details>",
    )


def _page(title: str, body: str, path: str = "") -> str:
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<body data-path='{escape(path.lstrip('/'))}'>{body}</body></html>"
    )
