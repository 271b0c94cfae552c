// The screen of leases and locks: what ends by itself, holders and waiters of locks, and the time that each has left.

import { api } from "./api.js";
import { bytesIn, bytesOf, number, plainOf, shown, textOf } from "./bytes.js";
import { cluster } from "./cluster-state.js";
import { keyWord, line } from "./commands.js";
import { ask } from "./dialog.js";
import { empty, h, put, redraw, say, tell } from "./dom.js";
import { keyLink } from "./keys.js";

const EVERY_MS = 2000;
const PAGE = 100;
const ASKED = 40; // leases whose time left is asked for at each look
const PLACES = 500;
const KINDS = [["locks", "Locks"], ["elections", "Elections"]];

export function leasesScreen(main, parameters) {
  const end = new AbortController();
  const wanted = parameters.get("id") ?? "";
  const note = h("div", { role: "status" });
  const leases = h("section", { class: "card", "aria-label": "Leases" });
  const places = h("div", { class: "stack" });
  put(main, h("div", { class: "head" }, h("h1", {}, "Leases and locks")), note, h("div", { class: "stack" }, places, leases));
  const view = { after: [""], details: new Map() };
  const look = async () => {
    try {
      const page = await api.json("GET", "/lease", { query: { limit: PAGE, after: view.after.at(-1) }, signal: end.signal });
      const asked = [...new Set([wanted, ...page.leases.map((one) => one.id)].filter(Boolean))].slice(0, ASKED);
      await Promise.all(asked.map((id) => api.json("GET", `/lease/${id}`, { signal: end.signal }).then((found) => view.details.set(id, { ...found, at: performance.now() })).catch(() => view.details.delete(id))));
      put(note);
      redraw(leases, leaseTable(page, view, wanted, look));
    } catch (error) {
      if (end.signal.aborted) return;
      put(note, h("div", { class: "banner warn" }, h("strong", {}, error.status === 403 ? "This user may not see the leases" : "The leases can't be read"), h("p", {}, `${error.message}.${api.stale ? " Time left is the leader's to tell, and there is none." : ""}`)));
    }
    await Promise.all(KINDS.map(([prefix, title]) => lookAtPlaces(places, prefix, title, view, end.signal)));
  };
  const loop = async () => {
    while (!end.signal.aborted) {
      if (!document.hidden) await look();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  };
  loop();
  return () => end.abort();
}

function leaseTable(page, view, wanted, look) {
  const turn = (after) => {
    if (after === null) view.after.pop();
    else view.after.push(after);
    look();
  };
  return [
    h("div", { class: "row between" }, h("h2", {}, `Leases`), h("span", { class: "hint" }, `${number(page.count)} in all`)),
    page.leases.length
      ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Id", "Time left", "Granted", "Keys", ""].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, page.leases.map((one) => leaseRow(one, view.details.get(one.id), one.id === wanted, look)))))
      : empty("There are no leases.", "A key with a time to live has one: syncline put --ttl 30s KEY VALUE"),
    h("div", { class: "row end" }, view.after.length > 1 && h("button", { "data-id": "back", onclick: () => turn(null) }, "Back"), page.next && h("button", { "data-id": "next", onclick: () => turn(page.next) }, "Next page")),
  ];
}

function leaseRow(lease, details, picked, look) {
  const left = details?.ttl_s;
  const keys = details?.keys ?? [];
  const revoke = async () => {
    const count = lease.keys;
    if (!(await ask({ title: "End this lease?", text: `Its ${count === 1 ? "key is" : `${number(count)} keys are`} deleted with it, in one revision. A lock that it holds is free then.`, command: line(`lease revoke ${lease.id}`, cluster.endpoints), action: "End it", danger: true }))) return;
    try {
      await api.json("DELETE", `/lease/${lease.id}`);
      say("The lease has ended.", "good");
    } catch (error) {
      tell(error);
    }
    look();
  };
  const share = left === undefined ? 0 : Math.min(1, Math.max(0, left / lease.granted_ttl_s));
  const meter = h("meter", { min: 0, max: 1, value: share, low: 0.2, optimum: 1, "aria-label": "Share of the time that is left" });
  return h(
    "tr", { class: picked ? "picked" : "" },
    h("td", {}, h("code", {}, lease.id)),
    h("td", {}, left === undefined ? "–" : [meter, ` ${left.toFixed(1)} s`]),
    h("td", {}, `${number(lease.granted_ttl_s)} s`),
    h("td", {}, keys.length ? keys.slice(0, 3).map((one) => [h("a", { href: keyLink(bytesIn(one, "key")), "data-id": `link ${lease.id} ${plainOf(bytesIn(one, "key"))}` }, shown(bytesIn(one, "key"), { most: 60 })), h("br")]) : number(lease.keys), lease.keys > 3 && keys.length ? `and ${number(lease.keys - 3)} more` : null),
    h("td", {}, api.canWrite && h("button", { class: "danger quiet small", "data-id": lease.id, onclick: revoke }, "End")),
  );
}

// The keys of locks and elections: `locks/NAME/LEASE`, in the order of their create revisions (docs/coordination.md).
async function lookAtPlaces(place, prefix, title, view, signal) {
  let card = place.querySelector(`[data-kind="${prefix}"]`);
  if (!card) {
    card = h("section", { class: "card", "data-kind": prefix, "aria-label": title });
    place.append(card);
  }
  let page;
  try {
    page = await api.list({ prefix: bytesOf(`${prefix}/`), limit: PLACES, values: true }, { signal });
  } catch (error) {
    if (!signal.aborted) put(card, h("h2", {}, title), h("p", { class: "hint" }, `${error.message}.`));
    return;
  }
  const byName = new Map();
  for (const item of page.keys) {
    const key = bytesIn(item, "key");
    const slash = key.lastIndexOf(47);
    const name = key.slice(prefix.length + 1, Math.max(slash, prefix.length + 1));
    const id = textOf(name) ?? "";
    if (!item.lease || !id) continue;
    if (!byName.has(id)) byName.set(id, { name, items: [] });
    byName.get(id).items.push({ key, item });
  }
  redraw(card, h("h2", {}, title), byName.size ? [...byName.values()].map((one) => lockCard(one, view)) : h("p", { class: "hint" }, prefix === "locks" ? "No lock is held. In a program: kv.lock(\"printer\"); in a shell: syncline run --lock printer -- COMMAND" : "No leadership is held."), page.more ? h("p", { class: "hint" }, `The first ${PLACES} of ${number(page.count)} places.`) : null);
}

function lockCard({ name, items }, view) {
  items.sort((a, b) => a.item.create_revision - b.item.create_revision);
  return h("div", { class: "lock" }, h("h3", {}, shown(name)), h("ol", {}, items.map(({ key, item }, at) => {
    const left = view.details.get(item.lease)?.ttl_s;
    const value = bytesIn(item, "value");
    return h("li", { class: at ? "" : "holder" }, h("span", { class: `badge ${at ? "" : "lead"}` }, at ? `waits, ${at}` : "holds it"), " ", h("span", {}, `token ${number(item.create_revision)}`), value?.length ? [" ", h("span", { class: "preview" }, shown(value, { asWritten: true, most: 60 }))] : null, left === undefined ? null : h("span", { class: "meta" }, `${left.toFixed(1)} s left`), " ", h("a", { href: keyLink(key), "data-id": `link ${plainOf(key)}` }, "key"), !at && api.canWrite && h("button", { class: "danger quiet small", "data-id": plainOf(key), onclick: () => takeAway(key) }, "Take it away"));
  })));
}

async function takeAway(key) {
  if (!(await ask({ title: "Take the lock away from its holder?", text: "The holder is told within milliseconds, and the next one has the lock. What the holder has begun is not undone.", command: line(`del ${keyWord(key)}`, cluster.endpoints), action: "Take it away", danger: true }))) return;
  try {
    await api.json("DELETE", "/key", { query: { key } });
  } catch (error) {
    tell(error);
  }
}
