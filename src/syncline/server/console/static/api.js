// Requests to the HTTP interface: of this node, and reads of the other nodes of the cluster.

import { base64Of, bytesIn, bytesOf, member, percent, same } from "./bytes.js";

export class ApiError extends Error {
  constructor(status, code, message, { outcome = "not_applied", details = null } = {}) {
    super(message);
    Object.assign(this, { status, code, outcome, details });
  }
}

const STORED = "syncline.token";

class Api {
  constructor() {
    this.home = new URL("..", document.baseURI).href.replace(/\/$/, ""); // below it: /key, /raft/status
    this.credential = ""; // the field `Authorization`
    this.user = "";
    this.tokenId = "";
    this.mode = "on";
    this.stale = false; // no leader is known: reads take this node's own state
    this.onSignIn = () => {};
    this.withCredentials = "omit"; // a browser then shows no dialog of its own for a 401
    this.restore();
  }

  // The password is kept, for lack of a token: it is gone when the page is loaded again.
  get isInMemory() {
    return this.credential.startsWith("Basic ");
  }

  get canWrite() {
    return this.mode === "on";
  }

  restore() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
      if (kept) Object.assign(this, { credential: `Bearer ${kept.token}`, user: kept.user, tokenId: kept.id ?? "" });
    } catch {
      this.credential = ""; // no storage here, or not ours: the user signs in again
    }
  }

  // A password is exchanged for a token, which ends by itself. Only a token is kept for other pages of this tab.
  async signIn(user, password) {
    this.credential = `Basic ${base64Of(bytesOf(`${user}:${password}`))}`;
    this.user = user;
    try {
      await this.json("GET", "/auth", { quiet: true });
      const made = await this.json("POST", `/user/${percent(bytesOf(user))}/token`, { body: { ttl: "12h", about: "console" }, quiet: true });
      this.keep(made.token, user, made.id);
    } catch (error) {
      if (error.status === 401 || error.status === 429) {
        this.credential = "";
        throw error;
      } // else the token can't be made now (no quorum, a user that may not): the password stays in memory
    }
  }

  async signInByToken(token) {
    this.credential = `Bearer ${token}`;
    try {
      const found = await this.json("GET", "/auth", { quiet: true });
      this.keep(token, found.user ?? "", "");
    } catch (error) {
      if (error.status === 401) {
        this.credential = "";
        throw error;
      }
      this.keep(token, "", "");
    }
  }

  keep(token, user, id) {
    Object.assign(this, { credential: `Bearer ${token}`, user, tokenId: id });
    sessionStorage.setItem(STORED, JSON.stringify({ token, user, id }));
  }

  forget() {
    Object.assign(this, { credential: "", user: "", tokenId: "" });
    try {
      sessionStorage.removeItem(STORED);
    } catch {
      // no storage here: nothing was kept
    }
  }

  async signOut() {
    const id = this.tokenId;
    try {
      if (id) await this.json("DELETE", `/token/${id}`, { quiet: true });
    } finally {
      this.forget();
    }
  }

  // `node`: the URL of another node. `query`: pairs, whose values may be bytes.
  async request(method, path, { query = {}, body, headers = {}, node = this.home, signal, timeoutMs = 15000, quiet = false } = {}) {
    const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
    const asked = pairs.map(([name, value]) => `${name}=${percent(value instanceof Uint8Array ? value : bytesOf(String(value)))}`).join("&");
    const fields = { ...headers };
    if (this.credential) fields.Authorization = this.credential;
    const raw = body === undefined || body instanceof Uint8Array || body instanceof Blob;
    if (!raw) fields["Content-Type"] = "application/json";
    const limit = timeoutMs ? AbortSignal.timeout(timeoutMs) : null;
    const signals = [signal, limit].filter(Boolean);
    let response;
    try {
      response = await fetch(`${node}${path}${asked ? `?${asked}` : ""}`, {
        method,
        headers: fields,
        body: raw ? body : JSON.stringify(body),
        signal: signals.length ? AbortSignal.any(signals) : undefined,
        credentials: this.withCredentials,
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      const late = limit?.aborted;
      throw new ApiError(0, "unreachable", late ? `${node} did not answer in ${timeoutMs / 1000} s` : `${node} does not answer`, {
        outcome: method === "GET" ? "not_applied" : "unknown",
      });
    }
    if (response.ok || response.status === 304) return response;
    throw await this.refusal(response, quiet, fields.Authorization);
  }

  async refusal(response, quiet, sent) {
    let told = {};
    try {
      told = (await response.json()).error ?? {};
    } catch {
      told = { message: `${response.status} ${response.statusText}` }; // not ours: a proxy may have answered
    }
    if (response.status === 401 && !quiet) {
      if (sent === this.credential) this.forget(); // a wrong password that is sent each second locks its user out
      this.onSignIn(told.message);
    }
    return new ApiError(response.status, told.code ?? "unknown", told.message ?? "", told);
  }

  async json(method, path, options) {
    return (await this.request(method, path, options)).json();
  }

  async text(path, options) {
    return (await this.request("GET", path, options)).text();
  }

  // The parameters of a read: while there is no leader, this node's own state.
  get fresh() {
    return this.stale ? { consistency: "stale" } : {};
  }

  // A read of the present state. If a quorum can't confirm it, the node's own state is taken, and said to be that.
  async read(path, query, options = {}) {
    try {
      return await this.request("GET", path, { query: { ...query, ...this.fresh }, ...options });
    } catch (error) {
      if (this.stale || !["no_leader", "not_leader", "deadline_exceeded"].includes(error.code)) throw error;
      this.stale = true;
      return this.request("GET", path, { query: { ...query, ...this.fresh }, ...options });
    }
  }

  // A key's value and revision; null if there is no such key.
  async get(key, { revision, signal } = {}) {
    try {
      const response = await this.read("/key", { key, revision }, { signal, timeoutMs: 60000 });
      const value = new Uint8Array(await response.arrayBuffer());
      return { value, revision: Number((response.headers.get("ETag") ?? "0").replaceAll('"', "")) };
    } catch (error) {
      if (error.code === "not_found") return null;
      throw error;
    }
  }

  async put(key, value, { ifMatch, ifAbsent, lease, ttl } = {}) {
    const headers = { "Content-Type": "application/octet-stream" };
    if (ifMatch) headers["If-Match"] = `"${ifMatch}"`;
    if (ifAbsent) headers["If-None-Match"] = "*";
    return this.json("PUT", "/key", { query: { key, lease, ttl }, body: value, headers, timeoutMs: 60000 });
  }

  async list(query, options) {
    return (await this.read("/keys", query, options)).json();
  }

  // A key's record; null if there is none.
  async record(key) {
    try {
      const item = (await this.list({ prefix: key, limit: 1 })).keys[0];
      return item && same(bytesIn(item, "key"), key) ? item : null;
    } catch (error) {
      if (error.status !== 403) throw error; // a user may have this key alone, and no list
      const [found] = (await this.json("POST", "/txn", { body: { then: [{ op: "get", ...member("key", key) }] } })).results;
      return found.found ? found : null;
    }
  }
}

export const api = new Api();
