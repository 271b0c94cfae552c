// The lab of `syncline up`: what kills, pauses and starts its nodes. Its token came behind the # of the address.

import { ApiError } from "./api.js";

const STORED = "syncline.lab";

class Lab {
  constructor() {
    this.url = "";
    this.token = "";
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

  // action: kill, pause, resume, start
  async order(action, node) {
    let response;
    try {
      response = await fetch(`${this.url}/lab/${action}/${node}`, { method: "POST", headers: { Authorization: `Bearer ${this.token}` }, credentials: "omit", signal: AbortSignal.timeout(5000) });
    } catch {
      throw new ApiError(0, "unreachable", "'syncline up' does not answer: does it still run?", { outcome: "unknown" });
    }
    if (!response.ok) {
      const { error } = await response.json();
      throw new ApiError(response.status, error.code, error.message, error);
    }
  }
}

export const lab = new Lab();
