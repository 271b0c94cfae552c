// Server-sent events over fetch: an EventSource can't send a credential.

import { api } from "./api.js";

const LONGEST_PAUSE_MS = 10000;
const MOST_LINE = 32 * 1024 * 1024; // a revision of many large values; more is no stream of ours

// Follow a stream until `signal` ends it, and connect again after each break. `onMessage({id, event, data})`;
// `onState(text)` with what is wrong, empty if all is well.
export async function follow(path, { node, query = {}, onMessage, onState = () => {}, signal }) {
  let last = "";
  let pause = 500;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await api.request("GET", path, { node, query, headers, signal, timeoutMs: 0 });
      onState("");
      pause = 500;
      for await (const message of messages(response)) {
        if (message.id) last = message.id;
        if (message.event === "error") throw new Error(JSON.parse(message.data).error.message);
        if (message.data) onMessage(message);
      }
    } catch (error) {
      if (signal.aborted) return;
      onState(error.message);
      if (error.status === 401 || error.status === 403 || error.status === 404) return;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(LONGEST_PAUSE_MS, pause * 2);
  }
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
