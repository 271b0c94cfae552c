// The time line: elections, members, snapshots, restarts, as each node tells it by `GET /events`.

import { api } from "./api.js";
import { number } from "./bytes.js";
import { cluster, mayAsk } from "./cluster-state.js";
import { follow } from "./sse.js";

const KEPT = 400;

class TimeLine extends EventTarget {
  constructor() {
    super();
    this.items = []; // {at, node, kind, text}, the newest first
    this.followed = new Map(); // by the URL of a node: what ends its stream
    this.seen = new Set();
  }

  // Follow each node that has a URL. This node's stream is asked under the address of this page.
  watch() {
    const members = cluster.view?.members ?? [];
    const urls = new Map(members.filter((one) => one.id === cluster.status?.id || mayAsk(one.http)).map((one) => [one.id === cluster.status?.id ? api.home : one.http, one.name]));
    for (const [url, end] of this.followed) {
      if (!urls.has(url)) {
        end.abort();
        this.followed.delete(url);
      }
    }
    for (const [url, name] of urls) {
      if (this.followed.has(url)) continue;
      const end = new AbortController();
      this.followed.set(url, end);
      follow("/events", { node: url, query: { past: 128 }, signal: end.signal, onMessage: (message) => this.take(name, message) });
    }
  }

  stop() {
    for (const end of this.followed.values()) end.abort();
    this.followed.clear();
  }

  take(node, { event, data, id }) {
    if (event !== "message") return;
    const item = JSON.parse(data);
    const told = words(item, node);
    if (!told) return;
    const once = told.shared ? `${item.type} ${told.shared}` : `${node} ${id}`;
    if (this.seen.has(once)) return;
    if (this.seen.size > 5000) this.seen.clear();
    this.seen.add(once);
    this.items.push({ at: item.at * 1000, node, kind: told.kind, text: told.text, term: item.term });
    this.items.sort((a, b) => b.at - a.at);
    this.items.length = Math.min(KEPT, this.items.length);
    this.dispatchEvent(new Event("change"));
  }
}

// An event in words. `shared`: all nodes tell of it, and it is shown once.
function words(item, node) {
  switch (item.type) {
    case "started":
      return { kind: "start", text: `${node} started` };
    case "leader_changed":
      return item.leader ? { kind: "leader", text: `${item.leader.name || item.leader.id} leads in term ${item.term}`, shared: `${item.term} ${item.leader.id}` } : { kind: "lost", text: `${node} knows no leader` };
    case "role_changed":
      return item.role === "candidate" ? { kind: "vote", text: `${node} asks for votes in term ${item.term}` } : null;
    case "membership_changed":
      return { kind: "members", text: `The members are ${item.members.map((one) => one.name + (one.role === "learner" ? " (learner)" : "")).join(", ")}`, shared: item.members.map((one) => one.id + one.role).join() + Math.round(item.at / 20) };
    case "snapshot_taken":
      return { kind: "snapshot", text: `${node} took a snapshot at entry ${number(item.snapshot_index)}` };
    case "snapshot_installed":
      return { kind: "snapshot", text: `${node} took over the leader's snapshot at entry ${number(item.snapshot_index)}` };
    case "state_restored":
      return { kind: "snapshot", text: `An operator restored the state at entry ${number(item.restored_index)}`, shared: item.restored_index };
    case "peer_up":
      return { kind: "up", text: `${node} reaches ${item.peer?.name || item.peer?.id}` };
    case "peer_down":
      return { kind: "down", text: `${node} does not reach ${item.peer?.name || item.peer?.id}: ${item.reason}` };
    case "disk_slow":
      return { kind: "disk", text: `The disk of ${node} is slow: ${item.reason}` };
    case "disk_space_low":
      return { kind: "disk", text: `The disk of ${node} is nearly full: ${item.reason}` };
    case "node_stopped":
      return { kind: "down", text: `${node} stopped: ${item.reason}` };
    default:
      return { kind: "other", text: `${node}: ${item.type}` };
  }
}

export const timeLine = new TimeLine();

export function clock(at) {
  return new Date(at).toLocaleTimeString([], { hour12: false });
}
