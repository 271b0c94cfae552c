// The screen of one key: read first, edit second. Saving is conditional on the revision that was read.

import { api } from "./api.js";
import { base64Of, bytesOf, fromBase64, hexOf, number, plainOf, shown, sizeText, textOf, urlBase64, wholeCharacters } from "./bytes.js";
import { cluster, mayAsk } from "./cluster-state.js";
import { waysFor } from "./commands.js";
import { ask } from "./dialog.js";
import { append, code, copy, empty, h, put, save, say, tell } from "./dom.js";
import { bytesFrom, deleteKeys, duplicate, rename } from "./key-actions.js";
import { follow } from "./sse.js";

const SHOWN_BYTES = 64 * 1024; // more of a value is shown when it is asked for
const MOST_SHOWN_BYTES = 1024 * 1024;
const EDIT_BYTES = 256 * 1024; // a larger value is replaced by a file
const PRETTY_BYTES = 128 * 1024;
const VERSIONS_AT_ONCE = 10;
const COUNT_EVERY_MS = 1000;

export function keyScreen(main, parameters) {
  const screen = new KeyView(main, fromBase64(parameters.get("k") ?? ""));
  screen.load();
  return () => screen.end.abort();
}

class KeyView {
  constructor(main, key) {
    this.main = main;
    this.key = key;
    this.found = null; // {value, revision}
    this.record = null;
    this.editing = false;
    this.form = "";
    this.whole = false;
    this.end = new AbortController();
    this.watches = h("dd", {}, "–");
    this.watch();
    this.countWatches();
  }

  async load() {
    try {
      [this.found, this.record] = await Promise.all([api.get(this.key, { signal: this.end.signal }), api.record(this.key).catch(() => null)]);
    } catch (error) {
      if (!this.end.signal.aborted) put(this.main, this.head(), h("div", { class: "banner warn" }, h("strong", {}, error.status === 403 ? "This user may not read this key" : "The key can't be read"), h("p", {}, `${error.message}.`), h("button", { onclick: () => this.load() }, "Try again")));
      return;
    }
    if (!this.form) this.form = this.found ? usualForm(this.found.value) : "text";
    this.editing = false;
    this.drawn();
  }

  // Tell of changes that others make while the key is open.
  watch() {
    follow("/watch", {
      query: { key: this.key, stale: true },
      signal: this.end.signal,
      onMessage: ({ event, data }) => {
        if (event !== "message") return;
        const { revision } = JSON.parse(data);
        if (!this.found || revision <= this.found.revision || revision === this.saved) return;
        if (this.editing) {
          put(this.changed, h("div", { class: "banner warn" }, h("strong", {}, "The key has changed meanwhile"), h("p", {}, `It is at revision ${revision} now. Saving shows you both versions.`)));
        } else this.load();
      },
    });
  }

  // How many watches include the key, on each node that this page may ask: each node has its own.
  async countWatches() {
    const { signal } = this.end;
    while (!signal.aborted) {
      if (!document.hidden) {
        const others = cluster.members.filter((one) => !one.own && one.http && mayAsk(one.http));
        const nodes = [[cluster.status?.name ?? "this node", api.home], ...others.map((one) => [one.name, one.http])];
        const asked = nodes.map(([, node]) => api.json("GET", "/watchers", { node, query: { key: this.key }, quiet: true, signal, timeoutMs: COUNT_EVERY_MS }));
        const counts = (await Promise.allSettled(asked)).map(({ value }, at) => [nodes[at][0], value?.watches]).filter(([, count]) => count !== undefined);
        const total = counts.reduce((sum, [, count]) => sum + count, 0);
        const some = counts.filter(([, count]) => count);
        const where = some.length && nodes.length > 1 ? ` (${some.map(([name, count]) => `${name}: ${number(count)}`).join(", ")})` : "";
        put(this.watches, counts.length ? number(total) : "–", h("span", { class: "hint" }, where, total ? " with this page's own" : ""));
      }
      await new Promise((resolve) => setTimeout(resolve, COUNT_EVERY_MS));
    }
  }

  head() {
    const slash = this.key.lastIndexOf(47);
    const up = this.key.slice(0, slash + 1);
    return h(
      "div", { class: "head" },
      h("nav", { class: "crumbs", "aria-label": "Folders" }, h("a", { href: `#/keys?p=${urlBase64(up)}` }, "← ", up.length ? shown(up) : "All keys")),
      h("h1", { class: "keyname" }, shown(this.key)),
    );
  }

  drawn() {
    const { found, main, record } = this;
    this.changed = h("div", { role: "status" });
    this.body = h("div", {});
    this.history = h("section", { class: "card", "aria-label": "History" });
    if (!found) {
      put(main, this.head(), empty("There is no such key.", "It may have been deleted, or its lease has ended."), api.canWrite && h("div", { class: "row" }, h("button", { class: "primary", onclick: () => this.create() }, "Create it")), this.history);
      this.drawHistory(cluster.status?.revision);
      return;
    }
    const facts = [
      ["Revision", number(found.revision)],
      ["Created at", number(record?.create_revision)],
      ["Version", number(record?.version)],
      ["Size", `${sizeText(found.value.length)}`],
      ["Lease", record?.lease ? h("a", { href: `#/leases?id=${record.lease}` }, record.lease) : "none"],
    ];
    put(
      main,
      this.head(),
      api.stale ? h("div", { class: "banner warn" }, h("strong", {}, "Read from this node alone"), h("p", {}, "There is no leader, so the value may be old.")) : null,
      this.changed,
      h("div", { class: "columns" }, h("section", { class: "card grow", "aria-label": "Value" }, this.valueHead(), this.body), h("div", { class: "stack" }, h("section", { class: "card", "aria-label": "About the key" }, h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]), h("dt", {}, "Watches"), this.watches), this.actions()), this.history, this.ways())),
    );
    this.drawValue();
    this.drawHistory(found.revision);
  }

  valueHead() {
    const tab = (form, text) => h("button", { role: "tab", "aria-selected": String(this.form === form), onclick: () => this.choose(form) }, text);
    return h(
      "div", { class: "row wrap between" },
      h("div", { class: "tabs", role: "tablist", "aria-label": "Form of the value" }, tab("json", "JSON"), tab("text", "Text"), tab("hex", "Hex")),
      h("div", { class: "row" },
        h("button", { onclick: () => copy(textOf(this.found.value) ?? base64Of(this.found.value), textOf(this.found.value) === null ? "the value in base64" : "the value") }, "Copy"),
        h("button", { onclick: () => save(fileName(this.key), this.found.value) }, "Download"),
        api.canWrite && h("button", { class: "primary", onclick: () => this.edit() }, "Edit")),
    );
  }

  choose(form) {
    this.form = form;
    this.editing = false;
    this.drawn();
  }

  drawValue() {
    const { value } = this.found;
    const most = this.whole ? MOST_SHOWN_BYTES : SHOWN_BYTES;
    const part = value.length > most ? wholeCharacters(value.subarray(0, most)) : value;
    put(this.body, valueView(value, part, this.form));
    if (part.length < value.length) {
      append(this.body, [h("p", { class: "hint" }, `The first ${sizeText(part.length)} of ${sizeText(value.length)}. `, !this.whole && h("button", { class: "small", onclick: () => {
        this.whole = true;
        this.drawValue();
      } }, "Show more"), " Download has all of it.")]);
    }
  }

  edit() {
    const { value } = this.found;
    if (value.length > EDIT_BYTES) {
      say(`The value has ${sizeText(value.length)}: it is too large to edit here. Upload a file to replace it.`);
      return;
    }
    const text = textOf(value);
    const crlf = text !== null && text.includes("\r\n"); // a text field has line feeds alone
    const form = text === null || this.form === "hex" || (crlf ? text.replaceAll("\r\n", "") : text.replaceAll("\n", "")).match(/[\r\n]/) ? "hex" : "text";
    const before = form === "hex" ? hexOf(value).replaceAll(/(..)/g, "$1 ").trim() : (this.form === "json" && pretty(text)) || (crlf ? text.replaceAll("\r\n", "\n") : text);
    const laid = this.form === "json" && pretty(text) !== null;
    const area = h("textarea", { class: "editor", rows: 18, spellcheck: "false", "aria-label": `The value, ${form === "hex" ? "in hexadecimal" : "as text"}`, value: before });
    this.editing = true;
    const cancel = () => {
      if (area.value !== before && !confirm("Drop what you have changed?")) return;
      this.editing = false;
      this.drawn();
    };
    const store = async () => {
      try {
        if (this.form === "json" && form === "text") JSON.parse(area.value);
        await this.store(bytesFrom(form === "text" && crlf && !laid ? area.value.replaceAll("\n", "\r\n") : area.value, form), this.found.revision);
      } catch (error) {
        if (error instanceof SyntaxError) say(`This is no JSON: ${error.message}. Choose Text to save it all the same.`, "bad");
        else tell(error);
      }
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel();
      if (event.key === "s" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        store();
      }
    });
    put(this.body, area, h("div", { class: "row end" }, h("span", { class: "hint" }, `Saved only if the key is still at revision ${number(this.found.revision)}.`), h("button", { onclick: cancel }, "Cancel"), h("button", { class: "primary", onclick: store }, "Save")));
    area.focus();
  }

  // Save under a condition. If it does not hold, show both versions side by side.
  async store(value, revision) {
    try {
      const record = await api.record(this.key); // without its lease a key would stay for ever
      const done = await api.put(this.key, value, { ifMatch: revision, lease: record?.mod_revision === revision ? record.lease : undefined });
      this.saved = done.revision;
      say(`Saved as revision ${number(done.revision)}.`, "good");
      await this.load();
    } catch (error) {
      if (error.code !== "precondition_failed") throw error;
      await this.conflict(value);
    }
  }

  async conflict(mine) {
    const theirs = await api.get(this.key);
    const side = (title, value, button) => h("section", { class: "side", "aria-label": title }, h("h3", {}, title), value ? valueView(value, value.subarray(0, SHOWN_BYTES), textOf(value) === null ? "hex" : "text", theirs && value === mine ? theirs.value : mine) : empty("Deleted"), button);
    const keepMine = async () => {
      try {
        if (theirs) await this.store(mine, theirs.revision);
        else {
          await api.put(this.key, mine, { ifAbsent: true });
          await this.load();
        }
      } catch (error) {
        tell(error);
      }
    };
    this.editing = true;
    put(
      this.body,
      h("div", { class: "banner warn", role: "alert" }, h("strong", {}, "Changed by another client meanwhile"), h("p", {}, theirs ? `The key was changed to revision ${number(theirs.revision)} after you had read revision ${number(this.found.revision)}. Nothing was saved.` : "The key was deleted meanwhile. Nothing was saved.")),
      h("div", { class: "sides" },
        side("Your version", mine, h("button", { class: "danger", onclick: keepMine }, theirs ? "Replace theirs with mine" : "Create it again with mine")),
        side("Now in the store", theirs?.value, h("button", { class: "primary", onclick: () => this.load() }, "Keep theirs"))),
    );
  }

  async create() {
    const given = await ask({ title: "Create the key", fields: [{ name: "value", label: "Value (text)", type: "textarea" }], action: "Create" });
    if (!given) return;
    try {
      await api.put(this.key, bytesOf(given.value), { ifAbsent: true });
      await this.load();
    } catch (error) {
      tell(error);
    }
  }

  actions() {
    const go = (key) => {
      location.hash = `#/key?k=${urlBase64(key)}`;
    };
    if (!api.canWrite) return null;
    return h("div", { class: "row wrap" },
      h("button", { onclick: () => duplicate(this.key, go) }, "Duplicate"),
      h("button", { onclick: () => rename(this.key, go) }, "Rename"),
      h("button", { class: "danger quiet", onclick: () => deleteKeys([this.key], () => this.load()) }, "Delete"));
  }

  ways() {
    const ways = waysFor(this.key, this.found.revision, { home: api.home, endpoints: cluster.endpoints, guarded: Boolean(api.credential) });
    return h("section", { class: "card", "aria-label": "The same in code" }, h("h2", {}, "The same in code"), Object.entries(ways).map(([name, text]) => h("details", {}, h("summary", {}, name), code(text, name))));
  }

  // The versions of the key, each read at the revision before the next one.
  async drawHistory(from) {
    const list = h("ol", { class: "history" });
    const more = h("button", { class: "small", onclick: () => step() }, "Older versions");
    const note = h("p", { class: "hint" });
    put(this.history, h("h2", {}, "History"), list, note, more);
    let next = from;
    const step = async () => {
      more.disabled = true;
      try {
        for (let shownNow = 0; shownNow < VERSIONS_AT_ONCE && next > 0; shownNow += 1) {
          const version = await api.get(this.key, { revision: next, signal: this.end.signal });
          if (!version) {
            put(note, `At revision ${number(next)} there was no such key.`);
            next = 0;
            break;
          }
          list.append(this.version(version));
          next = version.revision - 1;
          if (version.revision === this.record?.create_revision) {
            put(note, `Created at revision ${number(version.revision)}.`);
            break; // what was there before it was deleted once is seldom asked for
          }
        }
      } catch (error) {
        if (this.end.signal.aborted) return;
        next = 0;
        put(note, error.code === "compacted" ? `Older revisions were given up (before ${number(error.details?.oldest)}).` : `${error.message}.`);
      }
      more.disabled = false;
      more.hidden = next <= 0;
    };
    if (from) await step();
    else more.hidden = true;
  }

  version({ value, revision }) {
    const current = this.found?.revision === revision;
    const restore = async () => {
      if (!(await ask({ title: `Restore revision ${number(revision)}?`, text: "Its value becomes the newest version. What is there now stays in the history.", action: "Restore" }))) return;
      try {
        if (this.found) await this.store(value, this.found.revision);
        else {
          await api.put(this.key, value, { ifAbsent: true });
          await this.load();
        }
      } catch (error) {
        tell(error);
      }
    };
    return h("li", {}, h("div", { class: "row between" }, h("span", {}, h("strong", {}, `rev ${number(revision)}`), " ", h("span", { class: "hint" }, sizeText(value.length))), current ? h("span", { class: "badge lead" }, "now") : api.canWrite && h("button", { class: "small", onclick: restore }, "Restore")), h("div", { class: "preview" }, shown(value, { asWritten: true, most: 120 })));
  }
}

function usualForm(value) {
  const text = textOf(value);
  if (text === null) return "hex";
  return value.length <= PRETTY_BYTES && /^\s*[[{]/.test(text) && pretty(text) !== null ? "json" : "text";
}

// JSON, laid out. Numbers, names and texts stay as they are written: JSON.parse would round 12345678901234567890.
function pretty(text) {
  try {
    JSON.parse(text);
  } catch {
    return null; // not JSON: it is shown as text
  }
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const pieces_ = text.match(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g);
  return pieces_.map((piece, at) => {
    const [before, next] = [pieces_[at - 1], pieces_[at + 1]];
    if (piece === "{" || piece === "[") {
      depth += 1;
      return next === "}" || next === "]" ? piece : piece + line();
    }
    if (piece === "}" || piece === "]") {
      depth -= 1;
      return before === "{" || before === "[" ? piece : line() + piece;
    }
    return piece === "," ? piece + line() : piece === ":" ? ": " : piece;
  }).join("");
}

// A value in one form. Lines that `other` has not are marked.
function valueView(value, part, form, other = null) {
  if (form === "hex") return h("pre", { class: "value hex", tabindex: "0", "aria-label": "The value in hexadecimal" }, hexLines(part.subarray(0, SHOWN_BYTES / 4)));
  const text = textOf(part);
  if (text === null) return h("p", { class: "hint" }, "This is no text (not UTF-8): Hex shows it.");
  if (form === "json") {
    const laid = value.length <= PRETTY_BYTES ? pretty(text) : null;
    if (laid === null) return h("p", { class: "hint" }, value.length > PRETTY_BYTES ? "It is too large to be laid out: Text shows it." : "This is no JSON: Text shows it.");
    return h("pre", { class: "value", tabindex: "0", "aria-label": "The value as JSON" }, coloured(laid));
  }
  const block = h("pre", { class: "value", tabindex: "0", "aria-label": "The value as text" });
  const others = other ? new Set((textOf(other) ?? "").split("\n")) : null;
  const lines = text.split("\n");
  if (!others || lines.length > 2000) block.append(...visible(text));
  else for (const line of lines) block.append(h("span", { class: others.has(line) ? "" : "differs" }, ...visible(line)), "\n");
  if (!text) block.append("(empty)");
  return block;
}

// A text in which hidden characters are seen; line ends and tabs stay.
function visible(text) {
  if (!/[^\n\t\x20-\x7e\u00a1-\u024f]/.test(text)) return [text];
  return text.split(/([\n\t])/).flatMap((piece) => (piece === "\n" || piece === "\t" || !piece ? [piece] : pieces(plainOf(bytesOf(piece), { asWritten: true }))));
}

function pieces(plain) {
  return plain.split(/(\\u[0-9a-f]{4})/).map((piece) => (/^\\u[0-9a-f]{4}$/.test(piece) ? h("span", { class: "escape" }, piece) : piece));
}

function coloured(text) {
  if (text.length > 32 * 1024) return visible(text);
  return text.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?|\b(?:true|false|null)\b|-?\b\d[\d.eE+-]*)/).map((piece, at) => {
    if (at % 2 === 0) return piece;
    const kind = piece.endsWith(":") ? "name" : piece[0] === '"' ? "string" : "number";
    return h("span", { class: kind }, ...visible(piece));
  });
}

function hexLines(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const digits = Array.from(row, (one) => one.toString(16).padStart(2, "0")).join(" ");
    const text = Array.from(row, (one) => (one > 31 && one < 127 ? String.fromCharCode(one) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${digits.padEnd(47)}  ${text}`);
  }
  return lines.join("\n") || "(empty)";
}

function fileName(key) {
  const last = key.slice(key.lastIndexOf(47) + 1);
  return plainOf(last).replaceAll(/[^A-Za-z0-9._-]/g, "_").replace(/^\.+/, "_") || "value";
}

