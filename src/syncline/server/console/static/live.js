// The screen of what happens now: plots of this node's figures, and the changes of keys as a watch gives them.

import { api } from "./api.js";
import { bytesIn, bytesOf, counted, number, shown } from "./bytes.js";
import { h, put } from "./dom.js";
import { keyLink } from "./keys.js";
import { one, parsed, quantile, sum } from "./metrics.js";
import { Plot } from "./plot.js";
import { follow } from "./sse.js";
import { clock } from "./timeline.js";

const EVERY_MS = 1000;
const ROWS = 200;
const DRAW_MS = 200;
const REQUESTS = "syncline_http_requests_total";
const TIMES = "syncline_http_request_duration_seconds";
const SYNCS = "syncline_disk_wal_fsync_duration_seconds";

const rate = (value) => (value >= 100 ? `${number(Math.round(value))}/s` : `${value.toFixed(1)}/s`);
const time = (seconds) => (seconds >= 1 ? `${seconds.toFixed(2)} s` : seconds >= 0.001 ? `${(seconds * 1000).toFixed(1)} ms` : `${(seconds * 1e6).toFixed(0)} µs`);

export function liveScreen(main) {
  const end = new AbortController();
  const note = h("div", { role: "status" });
  const plots = {
    requests: new Plot({ title: "Requests", unit: rate, least: 5, lines: [{ name: "2xx", kind: "a" }, { name: "4xx", kind: "c" }, { name: "5xx", kind: "bad" }] }),
    latency: new Plot({ title: "Time of requests", unit: time, least: 0.002, lines: [{ name: "p50", kind: "a" }, { name: "p99", kind: "b" }] }),
    writes: new Plot({ title: "Throughput", unit: rate, least: 5, lines: [{ name: "revisions", kind: "a" }, { name: "log entries", kind: "b" }] }),
    disk: new Plot({ title: "Sync of the log", unit: time, least: 0.002, lines: [{ name: "mean", kind: "a" }] }),
    loop: new Plot({ title: "Lag of the event loop", unit: time, least: 0.01, lines: [{ name: "lag", kind: "a" }] }),
    memory: new Plot({ title: "Watches and connections", unit: (value) => number(Math.round(value)), least: 5, lines: [{ name: "watches", kind: "a" }, { name: "connections", kind: "b" }] }),
  };
  put(main, h("div", { class: "head" }, h("h1", {}, "Live"), h("p", { class: "hint" }, "The figures are those of the node that serves this page.")), note, h("div", { class: "plots" }, Object.values(plots).map((plot) => plot.element)), tail(end.signal));
  for (const plot of Object.values(plots)) plot.draw();
  poll(plots, note, end.signal);
  return () => end.abort();
}

async function poll(plots, note, signal) {
  let before = null;
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        const now = { at: performance.now() / 1000, samples: parsed(await api.text("/metrics", { signal, timeoutMs: 5000 })) };
        put(note);
        if (before) draw(plots, before, now);
        before = now;
      } catch (error) {
        if (signal.aborted) return;
        before = null;
        put(note, h("div", { class: "banner warn" }, h("strong", {}, error.status === 403 ? "This user may not see the figures" : "The figures can't be read"), h("p", {}, `${error.message}.`)));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function draw(plots, before, now) {
  const passed = Math.max(0.001, now.at - before.at);
  const grown = (name, keep) => Math.max(0, sum(now.samples, name, keep) - sum(before.samples, name, keep)) / passed;
  const status = (digit) => (labels) => (labels.status ?? labels.code ?? "").startsWith(digit);
  plots.requests.add([grown(REQUESTS, status("2")), grown(REQUESTS, status("4")), grown(REQUESTS, status("5"))]);
  plots.latency.add([quantile(before.samples, now.samples, TIMES, 0.5), quantile(before.samples, now.samples, TIMES, 0.99)]);
  plots.writes.add([grown("syncline_mvcc_current_revision"), grown("syncline_server_proposals_applied_total")]);
  const syncs = grown(`${SYNCS}_count`);
  plots.disk.add([syncs > 0 ? grown(`${SYNCS}_sum`) / syncs : null]);
  plots.loop.add([one(now.samples, "syncline_server_loop_lag_seconds")]);
  plots.memory.add([one(now.samples, "syncline_mvcc_watchers"), one(now.samples, "syncline_http_connections")]);
}

// The newest changes. They are drawn a few times a second, however many there are.
function tail(signal) {
  let rows = [];
  let paused = false;
  let seen = 0;
  let stream = new AbortController();
  const list = h("ol", { class: "tail", "aria-label": "Changes of keys, the newest first" });
  const state = h("span", { class: "hint", role: "status" });
  const trouble = h("span", { class: "error", role: "alert" });
  const pause = h("button", { "aria-pressed": "false", onclick: () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    drawNow();
  } }, "Pause");
  const prefix = h("input", { type: "search", placeholder: "all keys", spellcheck: "false", onchange: () => start() });
  let drawn = -1;
  const drawNow = () => {
    if (paused || drawn === seen) return;
    drawn = seen;
    put(list, rows.slice(0, ROWS).map(row));
    put(state, `${counted(seen, "change")} since this page was opened`);
  };
  const start = () => {
    stream.abort();
    stream = new AbortController();
    rows = [];
    follow("/watch", {
      query: { ...(prefix.value ? { prefix: bytesOf(prefix.value) } : { start: new Uint8Array([0]) }), stale: true },
      signal: AbortSignal.any([signal, stream.signal]),
      onState: (text) => put(trouble, text),
      onMessage: ({ event, data }) => {
        if (event !== "message") return;
        const { revision, events } = JSON.parse(data);
        seen += events.length;
        const at = Date.now();
        if (!paused) rows = [...events.slice(0, ROWS).map((one_) => ({ revision, at, item: one_ })), ...rows].slice(0, ROWS);
      },
    });
  };
  const timer = setInterval(drawNow, DRAW_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  start();
  return h("section", { class: "card", "aria-label": "Changes" }, h("div", { class: "row between wrap" }, h("h2", {}, "Changes"), h("div", { class: "row wrap" }, h("label", { class: "inline" }, h("span", {}, "Begins with"), prefix), pause)), state, trouble, list);
}

function row({ revision, at, item }) {
  const key = bytesIn(item, "key");
  const value = bytesIn(item, "value");
  return h("li", {}, h("time", {}, clock(at)), h("span", { class: `badge ${item.type === "put" ? "put" : "del"}` }, item.type), h("a", { href: keyLink(key), class: "key" }, shown(key, { most: 120 })), h("span", { class: "preview" }, value ? shown(value, { asWritten: true, most: 80 }) : ""), h("span", { class: "meta" }, `rev ${number(revision)}`));
}
