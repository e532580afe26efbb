"""The page at `/docs`: the contract to read, and a form per operation to try it. Loads nothing from anywhere;
its script reads `/openapi.json` of the same gateway and calls only that gateway."""

from typing import Final

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Agent Broker</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
details{border:1px solid #8884;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre,input,textarea{font:13px/1.45 ui-monospace,monospace}
pre{background:#8881;padding:.6rem;overflow:auto;max-height:24rem}
input,textarea{width:100%;box-sizing:border-box;margin:.15rem 0 .5rem}
b.m{display:inline-block;width:4.2rem}label{font-size:13px}
</style></head><body>
<h1>Agent Broker</h1><p id="about"></p>
<label>Key (stays in this page)<input id="key" type="password" autocomplete="off"></label>
<div id="operations">Loading <a href="/openapi.json">/openapi.json</a> ...</div>
<script>
"use strict";
const el = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const resolve = (doc, schema) =>
  schema && schema.$ref ? doc.components.schemas[schema.$ref.split("/").pop()] : schema;
const sample = (doc, schema) => {
  const s = resolve(doc, schema) || {};
  if (s.type === "array") return [sample(doc, s.items)];
  if (s.default !== undefined && s.type !== "object") return s.default;
  if (s.anyOf) return null;
  if (s.properties) return Object.fromEntries((s.required || Object.keys(s.properties))
    .map(name => [name, sample(doc, s.properties[name])]));
  return {string: "", integer: 1, number: 1, boolean: false}[s.type] ?? {};
};
const form = (doc, path, method, op) => {
  const hint = p => p.description || p.schema.type || "";
  const inputs = op.parameters.map(p => [p, el("input", {placeholder: hint(p)})]);
  const media = op.requestBody && op.requestBody.content["application/json"];
  const body = media && el("textarea", {rows: 8, value: JSON.stringify(sample(doc, media.schema), null, 2)});
  const answer = el("pre", {hidden: true});
  const send = el("button", {textContent: "Send"});
  send.onclick = async () => {
    let url = path;
    const query = new URLSearchParams();
    for (const [p, input] of inputs) {
      if (p.in === "path") url = url.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.append(p.name, input.value);
    }
    const headers = {};
    const key = document.getElementById("key").value;
    if (key) headers.Authorization = "Bearer " + key;
    if (body) headers["Content-Type"] = "application/json";
    answer.hidden = false;
    try {
      const reply = await fetch(query.size ? `${url}?${query}` : url,
        {method: method.toUpperCase(), headers, body: body ? body.value : undefined});
      const text = await reply.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* a page */ }
      answer.textContent = `${reply.status} ${reply.statusText}\\n${shown}`;
    } catch (error) { answer.textContent = String(error); }
  };
  return el("div", {},
    ...inputs.map(([p, input]) => el("label", {}, `${p.name} (${p.in})`, input)),
    ...(body ? [el("label", {}, "body", body)] : []), send, answer);
};
const show = doc => {
  document.getElementById("about").textContent = doc.info.description;
  const root = document.getElementById("operations");
  root.replaceChildren();
  for (const {name} of doc.tags) {
    root.append(el("h2", {textContent: name}));
    for (const [path, methods] of Object.entries(doc.paths)) {
      for (const [method, op] of Object.entries(methods)) {
        if (!op.tags.includes(name)) continue;
        const answers = Object.entries(op.responses)
          .map(([status, r]) => el("li", {}, el("code", {textContent: status}), " " + r.description));
        root.append(el("details", {},
          el("summary", {}, el("b", {className: "m", textContent: method.toUpperCase()}),
            el("code", {textContent: path}), " " + op.summary),
          el("p", {textContent: op.description}), el("ul", {}, ...answers), form(doc, path, method, op)));
      }
    }
  }
};
fetch("/openapi.json").then(reply => reply.json()).then(show);
</script></body></html>
"""
