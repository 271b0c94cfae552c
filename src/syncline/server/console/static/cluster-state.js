// What is known of the cluster: this node's status, and that of each node that this page may ask.

import { api, ApiError } from "./api.js";
import { one, parsed } from "./metrics.js";

const EVERY_MS = 1000;
const OTHERS_MS = 1500;
const METRICS_EVERY = 2; // looks
const STORED = "syncline.loaded";

const originOf = (url) => (URL.canParse(url) ? new URL(url).origin : "");
const allowed = new Set([location.origin, ...document.querySelector("meta[name=origins]").content.split(" ").map(originOf)]);

// Whether the policy of this page lets it ask a node: it has the members of the moment when the page was loaded.
export const mayAsk = (url) => allowed.has(originOf(url));

class ClusterState extends EventTarget {
  constructor() {
    super();
    this.status = null; // of this node
    this.error = null; // why there is none
    this.nodes = new Map(); // by id: {status, error, ms, metrics, warnings}
    this.asked = new Set(); // the ids of nodes whose answer is awaited
    this.looks = 0;
    this.started = false;
    this.known = new Promise((resolve) => (this.know = resolve)); // when this node was asked once
  }

  start() {
    if (this.started) return;
    this.started = true;
    const loop = async () => {
      if (!document.hidden) await this.look();
      setTimeout(loop, EVERY_MS);
    };
    loop();
  }

  async look() {
    const withMetrics = this.looks++ % METRICS_EVERY === 0;
    const own = this.lookAt(api.home, withMetrics, 4000, this.nodes.get(this.status?.id));
    this.lookAtOthers(withMetrics);
    const found = await own;
    if (found.status) {
      this.status = found.status;
      this.error = null;
      this.nodes.set(found.status.id, { ...this.nodes.get(found.status.id), ...found });
    } else {
      this.error = found.error;
      if (this.status) this.nodes.set(this.status.id, { ...this.nodes.get(this.status.id), ...found, status: null });
    }
    api.stale = Boolean(this.status && !this.error && !this.status.leader);
    this.know();
    this.dispatchEvent(new Event("change"));
  }

  // Each by itself: one that does not answer delays no other.
  lookAtOthers(withMetrics) {
    for (const member of this.view?.members ?? []) {
      if (!member.http || member.id === this.status?.id || this.asked.has(member.id)) continue;
      if (!mayAsk(member.http)) {
        this.nodes.set(member.id, { status: null, error: new ApiError(0, "late", "It has announced its address after this page was loaded: load the page again to see it.") });
        loadAgain(originOf(member.http));
        continue;
      }
      this.asked.add(member.id);
      this.lookAt(member.http, withMetrics, OTHERS_MS, this.nodes.get(member.id)).then((found) => {
        this.asked.delete(member.id);
        this.nodes.set(member.id, found);
        this.dispatchEvent(new Event("change"));
      });
    }
  }

  async lookAt(node, withMetrics, timeoutMs, before = {}) {
    const begin = performance.now();
    try {
      const quiet = node !== api.home;
      const status = await api.json("GET", "/raft/status", { node, timeoutMs, quiet });
      const found = { status, error: null, ms: performance.now() - begin, metrics: before?.metrics, warnings: before?.warnings ?? [] };
      if (withMetrics) {
        const [page, health] = await Promise.allSettled([
          api.text("/metrics", { node, timeoutMs, quiet }),
          fetch(`${node}/health?serializable=true`, { credentials: api.withCredentials, signal: AbortSignal.timeout(timeoutMs) }).then((answer) => answer.json()),
        ]);
        if (page.status === "fulfilled") found.metrics = parsed(page.value);
        if (health.status === "fulfilled") found.warnings = [health.value.reason, ...(health.value.warnings ?? [])].filter(Boolean);
      }
      return found;
    } catch (error) {
      return { status: null, error, ms: null, metrics: null, warnings: [] };
    }
  }

  // The status of the node that leads, if it can be asked: it alone knows how far the others are.
  get leaderStatus() {
    // A leader that was cut off believes for a moment that it leads: the newest term counts.
    const leaders = [...this.nodes.values()].map((one_) => one_.status).filter((one_) => one_?.role === "leader" && (!this.status || one_.term >= this.status.term));
    if (leaders.length) return leaders.reduce((best, one_) => (one_.term > best.term ? one_ : best));
    return this.status?.role === "leader" && !this.error ? this.status : null;
  }

  // The newest status of any node: its membership is shown.
  get view() {
    const all = [...this.nodes.values()].map((one_) => one_.status).filter(Boolean);
    return this.leaderStatus ?? (this.error ? all[0] : null) ?? this.status;
  }

  // Every member, with all that is known of it.
  get members() {
    const leading = this.leaderStatus;
    const byName = (one_, other) => one_.name.localeCompare(other.name, "en", { numeric: true });
    return [...(this.view?.members ?? [])].sort(byName).map((member) => {
      const known = leading?.members.find((other) => other.id === member.id) ?? member;
      const node = this.nodes.get(member.id) ?? {};
      const metrics = node.metrics;
      return {
        ...known,
        status: node.status ?? null,
        error: node.error ?? null,
        ms: node.ms ?? null,
        warnings: node.warnings ?? [],
        leads: leading?.id === member.id,
        own: this.status?.id === member.id,
        heard: [...this.nodes.values()].some((other) => other.status?.leader?.id === member.id), // it leads, and another node follows
        fsyncS: metrics ? one(metrics, "syncline_disk_wal_last_fsync_seconds") : null,
        freeBytes: metrics ? one(metrics, "syncline_disk_free_bytes") : null,
        waitsS: metrics ? one(metrics, "syncline_disk_wal_waits_seconds") : null,
        rttS: leading ? roundTrip(this.nodes.get(leading.id)?.metrics, member) : null,
      };
    });
  }

  // The URLs for clients, those of nodes that answer first.
  get endpoints() {
    const members = (this.view?.members ?? []).filter((one_) => one_.http);
    const up = members.filter((one_) => this.nodes.get(one_.id)?.status);
    return [...new Set([...up, ...members].map((one_) => one_.http))];
  }
}

// Load the page again, once for each member that has come later, if that interrupts nothing.
function loadAgain(origin) {
  if (document.querySelector("dialog, .editor, [aria-pressed=true]:not(.node)") || document.activeElement?.matches("input") || api.isInMemory) return;
  try {
    const before = (sessionStorage.getItem(STORED) ?? "").split(" ");
    if (before.includes(origin)) return;
    sessionStorage.setItem(STORED, [...before, origin].join(" ").trim());
  } catch {
    return; // no storage: it could be loaded for ever
  }
  location.reload();
}

function roundTrip(metrics, member) {
  const samples = metrics?.get("syncline_network_peer_round_trip_time_seconds") ?? [];
  return samples.find(({ labels }) => Object.values(labels).some((text) => text === member.name || text === member.id))?.value ?? null;
}

export const cluster = new ClusterState();
