// The lab of `syncline up`: what kills, pauses, cuts off and starts its nodes. Its token came behind the # of the address.

import { ApiError } from "./api.js";

const STORED = "syncline.lab";

class Lab {
  constructor() {
    this.url = "";
    this.token = "";
    this.cut = new Set(); // the names of the nodes that are cut off from the others
    const given = /^#lab=([\w-]+)$/.exec(location.hash);
    if (given) {
      sessionStorage.setItem(STORED, given[1]);
      history.replaceState(null, "", `${location.pathname}#/learn`);
    }
    this.token = sessionStorage.getItem(STORED) ?? "";
  }

  get isThere() {
    return Boolean(this.url && this.token);
  }

  // action: kill, pause, resume, start, cut, connect
  async order(action, node) {
    await this.ask("POST", `${action}/${node}`);
    await this.look();
  }

  // Which nodes are cut off: another page may have ordered it.
  async look() {
    this.cut = new Set((await this.ask("GET", "nodes")).cut);
  }

  async ask(method, path) {
    let response;
    try {
      response = await fetch(`${this.url}/lab/${path}`, { method, headers: { Authorization: `Bearer ${this.token}` }, credentials: "omit", signal: AbortSignal.timeout(5000) });
    } catch {
      throw new ApiError(0, "unreachable", "'syncline up' does not answer: does it still run?", { outcome: "unknown" });
    }
    if (!response.ok) {
      const { error } = await response.json();
      throw new ApiError(response.status, error.code, error.message, error);
    }
    return response.json();
  }
}

export const lab = new Lab();
