// The console's pages in this browser. The two that were used last hold their streams; each other one looks in by turns.
// A browser has six connections to a node for all its pages: the seventh stream would stop each of them.

const HOLDING = 2;

class Pages extends EventTarget {
  constructor() {
    super();
    this.id = String(Math.random()); // crypto.randomUUID is not there without TLS
    this.used = 0;
    this.others = new Map(); // by id: when it was used last
    this.channel = new BroadcastChannel("syncline.pages");
    this.channel.onmessage = ({ data }) => this.heard(data);
    addEventListener("focus", () => this.use());
    addEventListener("pageshow", () => this.use());
    addEventListener("pagehide", () => this.leave());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.leave() : this.use()));
    if (!document.hidden) this.use();
  }

  // Whether this page holds its streams.
  get holds() {
    let newer = 0;
    for (const [id, used] of this.others) if (used > this.used || (used === this.used && id > this.id)) newer += 1;
    return newer < HOLDING;
  }

  use() {
    this.changed(() => (this.used = Date.now()));
    this.tell();
  }

  tell() {
    this.channel.postMessage({ id: this.id, used: this.used });
  }

  leave() {
    this.channel.postMessage({ id: this.id, used: 0 });
  }

  heard({ id, used }) {
    const isNew = used && !this.others.has(id);
    this.changed(() => (used ? this.others.set(id, used) : this.others.delete(id)));
    if (isNew && !document.hidden) this.tell(); // it does not know this page
  }

  changed(change) {
    const before = this.holds;
    change();
    if (this.holds !== before) this.dispatchEvent(new Event("change"));
  }
}

export const pages = new Pages();
