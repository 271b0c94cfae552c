// Server-sent events over fetch: an EventSource can't send a credential.

import { api, ApiError } from "./api.js";
import { pages } from "./pages.js";

const LONGEST_PAUSE_MS = 10000;
const TURN_MS = 500; // of a page that does not hold its streams: it reads what has come,
const TURN_EVERY_MS = 2500; // and lets others have the connection
const MOST_LINE = 32 * 1024 * 1024; // a revision of many large values; more is no stream of ours

// Follow a stream until `signal` ends it, and connect again after each break. A page that is not seen follows nothing, and
// one that does not hold its streams follows by turns (pages.js): nothing is missed. `onMessage({id, event, data})`;
// `onState(text)` with what is wrong, empty if all is well.
export async function follow(path, { node, query = {}, onMessage, onState = () => {}, signal }) {
  let last = "";
  let pause = 500;
  while (!signal.aborted) {
    await seen(signal);
    const hidden = new AbortController();
    const turn = new AbortController();
    let begun = false;
    const look = () => {
      if (document.hidden) hidden.abort();
      else if (begun && !pages.holds) setTimeout(() => pages.holds || turn.abort(), TURN_MS);
    };
    document.addEventListener("visibilitychange", look);
    pages.addEventListener("change", look);
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await api.request("GET", path, { node, query, headers, quiet: Boolean(node) && node !== api.home, signal: AbortSignal.any([signal, hidden.signal, turn.signal]), timeoutMs: 0 });
      onState("");
      pause = 500;
      begun = true;
      look();
      for await (const message of messages(response)) {
        if (message.id) last = message.id;
        if (message.event === "error") throw told(JSON.parse(message.data).error);
        if (message.data) onMessage(message);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (hidden.signal.aborted) continue;
      if (turn.signal.aborted) {
        await nextTurn(signal);
        continue;
      }
      onState(error.message);
      if (error.code === "compacted") last = ""; // what came meanwhile is gone: go on from now
      if (error.status === 401 || error.status === 403 || error.status === 404) return;
    } finally {
      document.removeEventListener("visibilitychange", look);
      pages.removeEventListener("change", look);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(LONGEST_PAUSE_MS, pause * 2);
  }
}

const told = ({ code, message }) => new ApiError(0, code, message);

// Wait for the next turn, or until the page holds its streams.
function nextTurn(signal) {
  return new Promise((resolve) => {
    const end = new AbortController();
    const go = () => {
      clearTimeout(timer);
      end.abort();
      resolve();
    };
    const timer = setTimeout(go, TURN_EVERY_MS);
    pages.addEventListener("change", go, { signal: end.signal });
    signal.addEventListener("abort", go, { signal: end.signal });
  });
}

// Wait until the page is seen, or the stream is not wanted any more.
function seen(signal) {
  if (!document.hidden || signal.aborted) return undefined;
  return new Promise((resolve) => {
    const end = new AbortController();
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      end.abort();
      resolve();
    };
    document.addEventListener("visibilitychange", look, { signal: end.signal });
    signal.addEventListener("abort", look, { signal: end.signal });
  });
}

async function* messages(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    if (rest.length > MOST_LINE) throw new Error("a message is too large for this page");
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield parsed(part);
  }
}

function parsed(text) {
  const message = { id: "", event: "message", data: "" };
  for (const line of text.split("\n")) {
    const [, name, value] = /^([^:]*): ?(.*)$/s.exec(line) ?? [];
    if (name && name in message) message[name] = value;
  }
  return message;
}
