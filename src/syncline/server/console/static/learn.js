// The screen of trials, under `syncline up` alone: break nodes, write meanwhile, and see what the cluster does.

import { api } from "./api.js";
import { bytesOf, member, number } from "./bytes.js";
import { cluster } from "./cluster-state.js";
import { h, put, redraw, tell } from "./dom.js";
import { lab } from "./lab.js";
import { ring } from "./ring.js";
import { clock, timeLine } from "./timeline.js";

const LOOK_MS = 300;
const LAB_EVERY = 4; // looks
const WRITES_PER_BATCH = 10;
const BATCH_MS = 100;
const PREFIX = "learn/";

export function learnScreen(main) {
  const end = new AbortController();
  let picked = null;
  const picture = h("div", { class: "card ring-card" });
  const orders = h("div", { class: "stack" });
  const events = h("ol", { class: "timeline" });
  const writer = new Writer(end.signal);
  put(
    main,
    h("div", { class: "head" }, h("h1", {}, "Learn"), h("p", { class: "hint" }, "Break what you like: these nodes run on your machine, and their data survive it.")),
    h(
      "div", { class: "columns" },
      h("div", { class: "stack" }, picture, h("section", { class: "card", "aria-label": "What happened" }, h("h2", {}, "What happened"), events)),
      h("div", { class: "stack" }, h("section", { class: "card", "aria-label": "Nodes" }, h("h2", {}, "Nodes"), orders), writer.element, lessons()),
    ),
  );
  const before = new Map();
  const draw = () => {
    const members = cluster.members;
    redraw(picture, ring(members, { picked, moving: (one) => moved(before, one), onpick: (id) => {
      picked = id;
      draw();
    } }));
    redraw(orders, [leaderOrder(members), ...members.map(nodeOrders)]);
    timeLine.watch();
  };
  const drawEvents = () => put(events, timeLine.items.slice(0, 40).map((one) => h("li", { class: `event ${one.kind}` }, h("time", {}, clock(one.at)), h("span", {}, one.text))));
  cluster.addEventListener("change", draw);
  timeLine.addEventListener("change", drawEvents);
  const quick = async () => {
    let told = false; // that `up` does not answer: once, until it answers again
    const failed = (error) => {
      if (!told) tell(error);
      told = true;
    };
    for (let looks = 0; !end.signal.aborted; looks += 1) {
      if (looks % LAB_EVERY === 0) await lab.look().then(() => (told = false), failed);
      if (!end.signal.aborted) await cluster.look();
      do await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      while (document.hidden && !end.signal.aborted);
    }
  };
  draw();
  drawEvents();
  quick();
  return () => {
    end.abort();
    cluster.removeEventListener("change", draw);
    timeLine.removeEventListener("change", drawEvents);
  };
}

// Whether entries have reached a member since the last look.
function moved(before, one) {
  const now = one.match ?? one.status?.last_index ?? 0;
  const last = before.get(one.id) ?? now;
  before.set(one.id, now);
  return now > last;
}

function button(text, action, node, danger = false) {
  return h("button", { class: danger ? "danger" : "", "data-id": `${action} ${node}`, onclick: async () => {
    try {
      await lab.order(action, node);
    } catch (error) {
      tell(error);
    }
    await cluster.look();
  } }, text);
}

function leaderOrder(members) {
  const leader = members.find((one) => one.leads);
  return leader ? h("div", { class: "row wrap" }, button(`Kill the leader, ${leader.name}`, "kill", leader.name, true), button(`Cut off the leader, ${leader.name}`, "cut", leader.name)) : h("p", { class: "hint" }, "There is no leader at this moment.");
}

function nodeOrders(one) {
  const up = Boolean(one.status);
  const cut = up && lab.cut.has(one.name);
  return h(
    "div", { class: "row wrap between" },
    h("span", {}, h("strong", {}, one.name), " ", h("span", { class: `badge ${one.leads ? "lead" : ""}` }, one.leads ? "leader" : up ? one.status.role : "no answer"), cut && [" ", h("span", { class: "badge" }, "cut off")]),
    h("div", { class: "row wrap" }, up ? [button("Kill", "kill", one.name), button("Pause", "pause", one.name), cut ? button("Connect", "connect", one.name) : button("Cut off", "cut", one.name)] : [button("Start", "start", one.name), button("Go on", "resume", one.name)]),
  );
}

// Writes 100 keys a second, by any node that answers, and counts what was acknowledged.
class Writer {
  constructor(signal) {
    Object.assign(this, { signal, on: false, written: 0, failed: 0, gapMs: 0, last: 0, why: "" });
    this.numbers = h("dl", { class: "facts" });
    this.toggle = h("button", { class: "primary", "aria-pressed": "false", onclick: () => this.turn() }, "Write 100 keys a second");
    this.element = h("section", { class: "card", "aria-label": "Writes" }, h("h2", {}, "Writes"), h("div", { class: "row" }, this.toggle), this.numbers);
    this.draw();
  }

  turn() {
    this.on = !this.on;
    this.toggle.textContent = this.on ? "Stop writing" : "Write 100 keys a second";
    this.toggle.setAttribute("aria-pressed", String(this.on));
    if (this.on) {
      Object.assign(this, { written: 0, failed: 0, gapMs: 0, last: performance.now(), why: "" });
      this.run();
    }
  }

  async run() {
    let round = 0;
    while (this.on && !this.signal.aborted) {
      const begin = performance.now();
      await this.write(round);
      round += 1;
      this.draw();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, BATCH_MS - (performance.now() - begin))));
    }
  }

  async write(round) {
    const ops = Array.from({ length: WRITES_PER_BATCH }, (_, at) => ({ op: "put", ...member("key", bytesOf(`${PREFIX}${(round * WRITES_PER_BATCH + at) % 1000}`)), value: String(round) }));
    try {
      await api.json("POST", "/batch", { query: { timeout: "2s" }, body: { ops }, timeoutMs: 4000, signal: this.signal });
      const now = performance.now();
      this.gapMs = Math.max(this.gapMs, now - this.last);
      this.last = now;
      this.written += WRITES_PER_BATCH;
      this.why = "";
    } catch (error) {
      if (this.signal.aborted) return;
      this.failed += WRITES_PER_BATCH;
      this.why = error.message;
    }
  }

  draw() {
    const gap = this.on ? Math.max(this.gapMs, performance.now() - this.last) : this.gapMs;
    const rows = [["Acknowledged", number(this.written)], ["Not acknowledged", number(this.failed)], ["Longest pause", `${(gap / 1000).toFixed(1)} s`]];
    put(this.numbers, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]), this.why ? [h("dt", {}, "Now"), h("dd", {}, this.why)] : null);
  }
}

function lessons() {
  const lesson = (title, text) => h("details", {}, h("summary", {}, title), h("p", { class: "hint" }, text));
  return h(
    "section", { class: "card", "aria-label": "What to try" },
    h("h2", {}, "What to try"),
    lesson("1. Kill the leader while you write", "The others hear nothing from it, and one asks for votes. With the vote of a majority it leads in a new term. Writes pause for that long, and nothing that was acknowledged is lost."),
    lesson("2. Start it again", "It follows the new leader, and gets the entries that it has missed: its bars grow until it is up to date."),
    lesson("3. Kill two of three nodes", "One node is no majority. It can't commit, so writes fail, and the console shows its own data, which may be old. Start one of them, and it goes on."),
    lesson("4. Pause the leader", "Another node leads meanwhile. When the old leader goes on, it believes for a moment that it still leads. It can't answer with old data, since a read needs a majority. Then it sees the higher term and follows."),
    lesson("5. Cut off the leader", "Its links to the other nodes are cut in both directions, and it goes on running. It hears no majority, so it steps down, and refuses writes and reads. The others elect a leader in a new term and go on. The node still answers this page, with its own old state."),
    lesson("6. Connect it again", "It follows the new leader. What it had in its log and could not commit is replaced by the leader's entries, and it catches up."),
  );
}
