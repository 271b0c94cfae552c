// The screen of keys: folders or a flat list, a filter, a selection and what is done with it.

import { api } from "./api.js";
import { base64Of, bytesOf, counted, fromBase64, hexOf, number, plainOf, shown, sizeText, startsWith, textOf, urlBase64 } from "./bytes.js";
import { h, put } from "./dom.js";
import { deleteBelow, deleteKeys, duplicate, exportBelow, exportKeys, importKeys, newKey, rename, upload } from "./key-actions.js";
import { countBelow, FlatListing, FolderListing, SCAN_KEYS, SearchListing } from "./listing.js";
import { VirtualList } from "./virtual.js";

const ROW_PX = 44;
const COUNTS_AT_ONCE = 4;
const TYPING_MS = 250;

export const keyLink = (key) => `#/key?k=${urlBase64(key)}`;
const placeLink = (prefix, place) => `#/keys?${new URLSearchParams({ ...place, p: urlBase64(prefix) })}`;

export function keysScreen(main, parameters) {
  const screen = new Keys(main, parameters);
  screen.begin();
  return () => screen.close();
}

class Keys {
  constructor(main, parameters) {
    this.prefix = fromBase64(parameters.get("p") ?? "");
    this.view = parameters.get("v") ?? "tree";
    this.separator = parameters.get("s") ?? "/";
    this.text = parameters.get("q") ?? "";
    this.form = parameters.get("f") ?? "text";
    this.rows = [];
    this.selected = new Map(); // by the key in base64
    this.counts = new Map();
    this.counting = 0;
    this.wanted = [];
    this.end = new AbortController();
    this.loading = false;
    this.summary = h("span", { class: "hint", role: "status" });
    this.note = h("div", {});
    this.selection = h("div", { class: "selection row wrap", role: "region", "aria-label": "The selected keys" });
    this.list = new VirtualList({
      rowPx: ROW_PX,
      label: "Keys",
      draw: (row) => this.draw(row),
      open: (row) => this.open(row),
      toggle: (row) => this.toggle(row),
      more: () => this.more(),
      isSelected: (row) => row.kind === "key" && this.selected.has(base64Of(row.key)),
    });
    put(main, this.header(), this.bar(), this.note, this.selection, this.list.element);
    this.drawSelection();
  }

  get place() {
    return { v: this.view, s: this.separator, f: this.form };
  }

  begin() {
    this.end.abort();
    this.end = new AbortController();
    this.rows = [];
    this.loading = false;
    put(this.note);
    if (this.text) this.listing = new SearchListing(this.prefix, this.text, (found) => this.progress(found));
    else if (this.view === "tree" && this.separator) this.listing = new FolderListing(this.prefix, bytesOf(this.separator));
    else this.listing = new FlatListing(this.prefix);
    this.list.element.scrollTop = 0;
    this.list.set(this.rows); // an empty list asks for more
  }

  close() {
    this.end.abort();
    this.list.close();
  }

  async more() {
    if (this.loading || !this.listing || this.listing.done || this.listing.paused) return;
    this.loading = true;
    const { listing, end } = this;
    try {
      const rows = await listing.next(end.signal);
      if (end.signal.aborted) return;
      this.rows.push(...rows);
      this.loading = false;
      this.list.set(this.rows);
      this.drawSummary();
    } catch (error) {
      if (end.signal.aborted) return;
      this.listing.done = true;
      this.loading = false;
      put(this.note, h("div", { class: "banner warn" }, h("strong", {}, error.status === 403 ? "This user may not read these keys" : "The keys can't be read"), h("p", {}, `${error.message}.`), error.status === 403 ? h("p", {}, "Type a prefix that the user may read, such as jobs/.") : h("button", { onclick: () => this.begin() }, "Try again")));
    }
  }

  header() {
    const crumbs = h("nav", { class: "crumbs", "aria-label": "Folders" }, h("a", { href: placeLink(new Uint8Array(), this.place) }, "All keys"));
    const separator = bytesOf(this.separator);
    let from = 0;
    for (let at = 0; separator.length && at <= this.prefix.length - separator.length; at += 1) {
      if (!startsWith(this.prefix.subarray(at), separator)) continue;
      const end = at + separator.length;
      crumbs.append(h("a", { href: placeLink(this.prefix.slice(0, end), this.place) }, shown(this.prefix.slice(from, end))));
      from = end;
    }
    if (from < this.prefix.length) crumbs.append(h("span", {}, shown(this.prefix.slice(from)), "…"));
    const again = () => this.begin();
    return h(
      "div", { class: "head" },
      h("h1", {}, "Keys"),
      h(
        "div", { class: "row wrap" },
        api.canWrite && h("button", { class: "primary", onclick: () => newKey(this.prefix, openKey) }, "New key"),
        api.canWrite && h("button", { onclick: () => upload(this.prefix, openKey) }, "Upload"),
        api.canWrite && h("button", { onclick: () => importKeys(again) }, "Import"),
        h("button", { onclick: () => exportBelow(this.prefix) }, "Export"),
        api.canWrite && h("button", { class: "danger quiet", onclick: () => deleteBelow(this.prefix, again) }, this.prefix.length ? "Delete below" : "Delete all"),
      ),
      crumbs,
    );
  }

  bar() {
    const prefixText = textOf(this.prefix);
    const go = (changes) => {
      const next = { ...this.place, q: this.text, p: urlBase64(this.prefix), ...changes };
      location.hash = `#/keys?${new URLSearchParams(Object.entries(next).filter(([, value]) => value))}`;
    };
    let timer = 0;
    const select = (label, name, value, options) => h("label", { class: "inline" }, h("span", {}, label), h("select", { onchange: (event) => go({ [name]: event.target.value }) }, options.map(([one, text]) => h("option", { value: one, selected: one === value }, text))));
    return h(
      "div", { class: "bar" },
      h("label", { class: "inline grow" }, h("span", {}, "Begins with"), h("input", { type: "search", id: "prefix", value: prefixText ?? `(${hexOf(this.prefix)})`, placeholder: "any key", spellcheck: "false", onchange: (event) => go({ p: urlBase64(bytesOf(event.target.value)) }) })),
      h("label", { class: "inline grow" }, h("span", {}, "Contains"), h("input", {
        type: "search", id: "filter", value: this.text, placeholder: "press / to search", spellcheck: "false",
        oninput: (event) => {
          clearTimeout(timer);
          timer = setTimeout(() => {
            this.text = event.target.value;
            this.begin();
          }, TYPING_MS);
        },
      })),
      select("Show", "v", this.view, [["tree", "folders"], ["flat", "a flat list"]]),
      this.view === "tree" && select("Separator", "s", this.separator, [["/", "/"], [":", ":"], [".", "."], ["-", "-"], ["_", "_"], ["|", "|"]]),
      select("Bytes", "f", this.form, [["text", "as text"], ["hex", "hex"], ["base64", "base64"]]),
      this.summary,
    );
  }

  draw(row) {
    if (row.kind === "folder") {
      const name = row.prefix.subarray(this.prefix.length);
      return [h("span", { class: "icon folder", "aria-hidden": "true" }), h("span", { class: "key" }, this.name(name)), h("span", { class: "meta" }, this.countOf(row))];
    }
    const { key, item } = row;
    const id = base64Of(key);
    const name = this.text || this.view === "flat" ? key : key.subarray(this.prefix.length);
    return [
      h("input", { type: "checkbox", tabindex: "-1", checked: this.selected.has(id), "aria-label": `Select ${plainOf(key)}`, onchange: () => this.toggle(row) }),
      h("span", { class: "key" }, name.length ? this.name(name) : h("em", {}, "(the prefix itself)")),
      item.lease && h("span", { class: "badge" }, "lease"),
      h("span", { class: "meta size" }, sizeText(item.size_bytes ?? 0)),
      h("span", { class: "meta revision" }, `rev ${number(item.mod_revision)}`),
    ];
  }

  name(bytes) {
    if (this.form === "hex") return h("code", {}, hexOf(bytes));
    if (this.form === "base64") return h("code", {}, base64Of(bytes));
    return shown(bytes);
  }

  // The number of keys in a folder: asked for when its row is in sight, a few at a time.
  countOf(row) {
    const id = base64Of(row.prefix);
    const count = this.counts.get(id);
    if (this.counts.has(id)) return count === null ? "" : counted(count, "key");
    if (!this.wanted.includes(row)) this.wanted.push(row);
    this.countMore();
    return "";
  }

  async countMore() {
    while (this.wanted.length && this.counting < COUNTS_AT_ONCE) {
      const row = this.wanted.pop();
      const id = base64Of(row.prefix);
      if (this.counts.has(id)) continue;
      this.counting += 1;
      this.counts.set(id, null);
      countBelow(row.prefix, this.end.signal)
        .then((count) => this.counts.set(id, count))
        .catch(() => this.counts.delete(id))
        .finally(() => {
          this.counting -= 1;
          if (!this.end.signal.aborted && !this.counting) this.list.refresh();
          this.countMore();
        });
    }
  }

  open(row) {
    location.hash = row.kind === "folder" ? placeLink(row.prefix, this.place) : keyLink(row.key);
  }

  toggle(row) {
    if (row.kind !== "key") return;
    const id = base64Of(row.key);
    if (!this.selected.delete(id)) this.selected.set(id, row.key);
    this.drawSelection();
    this.list.refresh();
  }

  drawSelection() {
    const keys = [...this.selected.values()];
    this.selection.hidden = !keys.length;
    if (!keys.length) return;
    const clear = () => {
      this.selected.clear();
      this.drawSelection();
      this.begin();
    };
    const loaded = this.rows.filter((row) => row.kind === "key");
    put(
      this.selection,
      h("strong", {}, `${number(keys.length)} selected`),
      h("button", { onclick: () => {
        for (const row of loaded) this.selected.set(base64Of(row.key), row.key);
        this.drawSelection();
        this.list.refresh();
      } }, `Select the ${number(loaded.length)} loaded`),
      h("button", { onclick: () => exportKeys(keys) }, "Export"),
      api.canWrite && keys.length === 1 && h("button", { onclick: () => duplicate(keys[0], clear) }, "Duplicate"),
      api.canWrite && keys.length === 1 && h("button", { onclick: () => rename(keys[0], clear) }, "Rename"),
      api.canWrite && h("button", { class: "danger", onclick: () => deleteKeys(keys, clear) }, "Delete"),
      h("button", { class: "quiet", onclick: clear }, "Clear"),
    );
  }

  progress(listing) {
    put(this.summary, `${number(listing.scanned)} of ${counted(listing.count, "key")} looked at`);
  }

  drawSummary() {
    const { listing } = this;
    const keys = listing.count ?? 0;
    if (this.text) {
      put(this.summary, `${number(this.rows.length)} found in ${number(listing.scanned)} of ${counted(keys, "key")}`);
      if (listing.paused) put(this.note, h("div", { class: "banner info" }, h("strong", {}, `${counted(listing.scanned, "key was", "keys were")} looked at`), h("button", { onclick: () => {
        listing.limit += SCAN_KEYS;
        listing.paused = false;
        put(this.note);
        this.more();
      } }, "Go on")));
    } else put(this.summary, `${counted(keys, "key")}${api.stale ? ", as this node has them" : ""}`);
    if (!this.rows.length && listing.done) put(this.note, h("div", { class: "empty" }, h("strong", {}, keys ? "No key contains this text." : "There is no key here."), api.canWrite && !keys ? h("p", {}, "Make one with New key, or: ", h("code", {}, "syncline put greeting hello")) : null));
  }
}

function openKey(key) {
  location.hash = keyLink(key);
}
