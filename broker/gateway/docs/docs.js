"use strict";
// Reads /openapi.json of the same gateway and shows it; every form calls that gateway and nothing else.

const byId = id => document.getElementById(id);

const el = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  const { dataset, ...rest } = props;
  Object.assign(node, rest);
  Object.assign(node.dataset, dataset || {});
  node.append(...children.filter(child => child != null));
  return node;
};

let doc;

const resolve = thing => {
  if (!thing || !thing.$ref) return thing;
  return thing.$ref.slice(2).split("/").reduce((node, step) => node[step], doc);
};

// --- text: the little Markdown our descriptions use ------------------------------------------------------

const inline = text => text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map(part => {
  if (part.startsWith("`")) return el("code", { textContent: part.slice(1, -1) });
  if (part.startsWith("**")) return el("b", { textContent: part.slice(2, -2) });
  return part;
});

const prose = text => {
  const nodes = [];
  for (const paragraph of (text || "").split("\n\n")) {
    if (paragraph.startsWith("- ")) {
      if (nodes.at(-1)?.tagName !== "UL") nodes.push(el("ul"));
      nodes.at(-1).append(el("li", {}, ...inline(paragraph.slice(2))));
    } else if (paragraph) nodes.push(el("p", {}, ...inline(paragraph)));
  }
  return nodes;
};

// --- schemas ---------------------------------------------------------------------------------------------

const nameOf = schema => schema.$ref ? schema.$ref.split("/").pop() : null;

const typeOf = schema => {
  if (schema.$ref) return nameOf(schema);
  if (schema.allOf) return typeOf(schema.allOf[0]);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  const kinds = [].concat(schema.type || "any").filter(kind => kind !== "null");
  const nullable = [].concat(schema.type || []).includes("null") ? " | null" : "";
  if (kinds[0] === "array") return `${typeOf(schema.items)}[]${nullable}`;
  return (schema.format || kinds.join(" | ")) + nullable;
};

const facetsOf = schema => {
  const facets = [];
  if (schema.enum && schema.type !== undefined && !(schema.type.includes?.("boolean")))
    facets.push(schema.enum.filter(one => one !== null && one !== "").join(", "));
  if (schema.minimum !== undefined || schema.maximum !== undefined)
    facets.push(`${schema.minimum ?? ""} to ${schema.maximum ?? "any"}`);
  if (schema.maxLength !== undefined) facets.push(`${schema.minLength ?? 0} to ${schema.maxLength} characters`);
  if (schema.maxItems !== undefined) facets.push(`at most ${schema.maxItems}`);
  if (schema.default !== undefined) facets.push(`default ${JSON.stringify(schema.default)}`);
  return facets.join("; ");
};

// What a schema leads to, unwrapped from lists and nulls, if that has fields of its own.
const fieldsBehind = schema => {
  for (let one = schema; one;) {
    if (one.$ref) return resolve(one).properties ? one : null;
    if (one.items) one = one.items;
    else if (one.anyOf) one = one.anyOf.find(choice => choice.$ref || choice.items);
    else if (one.allOf) one = one.allOf[0];
    else return null;
  }
  return null;
};

const row = (name, schema, required, description) => el("tr", {},
  el("td", {}, el("code", { textContent: name }),
    required ? el("span", { className: "required", textContent: "required" }) : null),
  el("td", {}, el("span", { className: "type", textContent: typeOf(schema) }), " ",
    ...inline(description ?? schema.description ?? ""),
    facetsOf(schema) ? el("div", { className: "facets", textContent: facetsOf(schema) }) : null,
    nested(schema)));

const nested = schema => {
  const behind = fieldsBehind(schema);
  if (!behind) return null;
  const box = el("details", { className: "nested" }, el("summary", { textContent: `fields of ${nameOf(behind)}` }));
  box.addEventListener("toggle", () => box.querySelector("table") || box.append(table(behind)), { once: true });
  return box;
};

const table = schema => {
  const shape = resolve(schema);
  const required = new Set(shape.required || []);
  return el("table", {}, ...Object.entries(shape.properties || {})
    .map(([name, one]) => row(name, one, required.has(name))));
};

const bodyTable = schema => {
  const behind = fieldsBehind(schema);
  const lead = el("p", { className: "type", textContent: typeOf(schema) });
  return behind ? [lead, table(behind)] : [lead];
};

// --- requests --------------------------------------------------------------------------------------------

const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;
const pretty = value => typeof value === "string" ? value : JSON.stringify(value, null, 2);

// The values of a form as a request; `key` is left out of what is shown.
const requestOf = (path, method, inputs, body) => {
  let url = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (!input.value) continue;
    else if (parameter.in === "header") headers[parameter.name] = input.value;
    else if (parameter.schema.type === "array") input.value.split(",").forEach(v => query.append(parameter.name, v.trim()));
    else query.append(parameter.name, input.value);
  }
  const agent = byId("agent").value;
  if (agent && inputs.some(([parameter]) => parameter.name === "X-Agent-Id")) headers["X-Agent-Id"] ??= agent;
  if (body) headers["Content-Type"] = "application/json";
  const sent = body ? body.value : undefined;
  return { url: query.size ? `${url}?${query}` : url, method: method.toUpperCase(), headers, body: sent };
};

const curlOf = (request, secured, streams) => {
  const parts = [`curl ${streams ? "-N " : ""}-X ${request.method} ${quoted(location.origin + request.url)}`];
  if (secured) parts.push(`-H "Authorization: Bearer $KEY"`);
  for (const [name, value] of Object.entries(request.headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (request.body) parts.push(`-d ${quoted(request.body)}`);
  return parts.join(" \\\n  ");
};

const show = async (request, streams, answer, took, stop) => {
  const headers = { ...request.headers };
  const key = byId("key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const started = performance.now();
  answer.hidden = false;
  answer.textContent = "...";
  const reply = await fetch(request.url, { ...request, headers, signal: stop.signal });
  const told = ["x-request-id", "location", "link", "retry-after"]
    .filter(name => reply.headers.has(name)).map(name => `${name}: ${reply.headers.get(name)}`).join("\n");
  const head = `${reply.status} ${reply.statusText}\n${told}\n\n`;
  if (streams && reply.ok) {
    answer.textContent = head;
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      answer.textContent = (answer.textContent + chunk.value).slice(-100_000);
      answer.scrollTop = answer.scrollHeight;
    }
    return;
  }
  const text = await reply.text();
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* a page */ }
  answer.textContent = head + shown;
  took.textContent = `${Math.round(performance.now() - started)} ms`;
};

const form = (path, method, operation, parameters) => {
  const streams = "text/event-stream" in (operation.responses["200"]?.content || {});
  const inputs = parameters.map(parameter => {
    const hint = parameter.example === undefined ? typeOf(parameter.schema) : String(parameter.example);
    const choices = parameter.schema.enum;
    const input = choices
      ? el("select", {}, el("option", { value: "", textContent: "" }),
        ...choices.filter(choice => choice !== "").map(choice => el("option", { value: String(choice), textContent: String(choice) })))
      : el("input", { placeholder: hint, autocomplete: "off" });
    return [parameter, input];
  });
  const media = operation.requestBody?.content["application/json"];
  const body = media && el("textarea", { value: pretty(media.example ?? {}), spellcheck: false });
  if (body) body.rows = Math.min(18, body.value.split("\n").length + 1);
  const curl = el("pre");
  const answer = el("pre", { hidden: true });
  const took = el("span", { className: "took" });
  const send = el("button", { className: "send", textContent: streams ? "Open" : "Send" });
  const end = el("button", { textContent: "Close", hidden: true });
  const copy = el("button", { textContent: "Copy curl" });
  const refresh = () => {
    curl.textContent = curlOf(requestOf(path, method, inputs, body), operation.security.length > 0, streams);
  };
  let stop = new AbortController();
  end.onclick = () => stop.abort();
  copy.onclick = () => navigator.clipboard?.writeText(curl.textContent);
  send.onclick = async () => {
    const request = requestOf(path, method, inputs, body);
    stop = new AbortController();
    send.disabled = true;
    end.hidden = !streams;
    took.textContent = "";
    try { await show(request, streams, answer, took, stop); }
    catch (error) { answer.textContent += stop.signal.aborted ? "\n(closed)" : `\n${error}`; }
    finally { send.disabled = false; end.hidden = true; }
  };
  const fields = inputs.flatMap(([parameter, input], at) => {
    input.id = `${operation.operationId}-${at}`;
    return [el("label", { htmlFor: input.id, textContent: parameter.name }), input];
  });
  if (body) {
    body.id = `${operation.operationId}-body`;
    fields.push(el("label", { htmlFor: body.id, className: "top", textContent: "body" }), body);
  }
  const whole = el("div", {}, el("div", { className: "try" }, ...fields),
    el("div", { className: "actions" }, send, end, copy, took), curl, answer);
  whole.addEventListener("input", refresh);
  byId("agent").addEventListener("input", refresh);
  refresh();
  return whole;
};

// --- the page --------------------------------------------------------------------------------------------

const replies = operation => el("div", { className: "replies" }, ...Object.entries(operation.responses)
  .map(([status, reply]) => {
    const [kind, content] = Object.entries(reply.content || {})[0] || [null, {}];
    const examples = content.examples ? Object.values(content.examples).map(one => one.value)
      : content.example === undefined ? [] : [content.example];
    const named = Object.keys(reply.headers || {}).join(", ");
    return el("details", {},
      el("summary", {}, el("span", { className: `status s${status[0]}`, textContent: status }),
        ...inline(reply.description)),
      el("p", { className: "facets", textContent: `${kind || "no body"}; headers ${named}` }),
      ...(content.schema && kind === "application/json" ? bodyTable(content.schema) : []),
      ...examples.map(example => el("pre", { textContent: pretty(example) })));
  }));

const fill = (box, path, method, operation) => {
  const parameters = operation.parameters.map(resolve);
  const scope = operation.security[0]?.key[0];
  const media = operation.requestBody?.content["application/json"];
  box.append(el("div", { className: "body" },
    ...prose(operation.description),
    el("p", { className: "needs" }, scope ? "Needs a key with " : "Needs no key.",
      scope ? el("code", { textContent: scope }) : null, " ",
      el("a", { href: `#${operation.operationId}`, textContent: "link to this" })),
    ...(parameters.length ? [el("h3", { textContent: "Parameters" }),
      el("table", {}, ...parameters.map(p =>
        row(p.name, p.schema, p.required, `${p.in === "query" ? "" : `(${p.in}) `}${p.description}`)))] : []),
    ...(media ? [el("h3", { textContent: "Body" }), ...bodyTable(media.schema)] : []),
    el("h3", { textContent: "Replies" }), replies(operation),
    el("h3", { textContent: "Try it" }), form(path, method, operation, parameters)));
};

const card = (path, method, operation) => {
  const box = el("details", { className: "operation", id: operation.operationId,
    dataset: { words: `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.description}`.toLowerCase() } },
  el("summary", {}, el("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
    el("span", { className: "path", textContent: path }),
    el("span", { className: "what", textContent: operation.summary })));
  box.addEventListener("toggle", () => {
    if (box.open && !box.querySelector(".body")) fill(box, path, method, operation);
  });
  return box;
};

const open = () => {
  const box = location.hash.length > 1 && byId(decodeURIComponent(location.hash.slice(1)));
  document.querySelectorAll("nav a").forEach(a => a.classList.toggle("here", a.hash === location.hash));
  if (!box || box.tagName !== "DETAILS") return;
  box.open = true;
  box.scrollIntoView();
};

const search = () => {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const section of document.querySelectorAll("#operations > section")) {
    let here = 0;
    for (const box of section.querySelectorAll("details.operation")) {
      box.hidden = !words.every(word => box.dataset.words.includes(word));
      const link = document.querySelector(`nav a[href="#${box.id}"]`);
      link.hidden = box.hidden;
      link.style.display = box.hidden ? "none" : "";
      here += !box.hidden;
    }
    section.hidden = !here;
    byId(`in-${section.id}`).hidden = !here;
    found += here;
  }
  byId("nothing").hidden = found > 0;
  byId("about").hidden = words.length > 0;
};

const build = () => {
  byId("version").textContent = doc.info.version;
  byId("about").append(el("h1", { textContent: "The HTTP contract" }), ...prose(doc.info.description),
    el("p", {}, "As ", el("a", { href: "/openapi.json", textContent: "OpenAPI 3.1" }), "."));
  const root = byId("operations");
  const contents = byId("contents");
  root.replaceChildren();
  doc.tags.forEach(({ name, description }, at) => {
    const cards = [];
    for (const [path, methods] of Object.entries(doc.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags.includes(name)) cards.push([path, method, operation]);
      }
    }
    const id = `tag-${at}`;
    root.append(el("section", { id }, el("h2", { textContent: name }), el("p", { textContent: description }),
      ...cards.map(one => card(...one))));
    contents.append(el("h2", { id: `in-${id}`, textContent: name }), ...cards.map(([, method, operation]) =>
      el("a", { href: `#${operation.operationId}` },
        el("span", { className: `method ${method}`, textContent: method.toUpperCase() }), operation.summary)));
  });
  byId("search").addEventListener("input", search);
  addEventListener("hashchange", open);
  addEventListener("keydown", event => {
    if (event.key !== "/" || /INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    byId("search").focus();
  });
  open();
};

fetch("/openapi.json").then(reply => reply.json()).then(read => { doc = read; build(); })
  .catch(error => { byId("operations").textContent = `cannot read /openapi.json: ${error}`; });
