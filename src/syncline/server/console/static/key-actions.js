// What is done to keys: new, duplicate, rename, delete, upload, import, export. Each as safe as the server lets it be.

import { api } from "./api.js";
import { base64Of, bytesIn, bytesOf, counted, fromBase64, fromHex, member, number, plainOf, same, sizeText, textOf } from "./bytes.js";
import { cluster } from "./cluster-state.js";
import { keyWord, line, word } from "./commands.js";
import { ask } from "./dialog.js";
import { h, pickFile, save, say, tell } from "./dom.js";
import { countBelow } from "./listing.js";

const DELETE_AT_ONCE = 5000; // the store deletes 10,000 keys in one command at most
const BATCH_OPS = 500;
const BATCH_BYTES = 1024 * 1024;
const EXPORT_BYTES = 256 * 1024 * 1024; // it is held in memory until it is saved

const FORMS = [["text", "as text"], ["hex", "in hexadecimal"], ["base64", "in base64"]];

export function bytesFrom(text, form) {
  return form === "hex" ? fromHex(text) : form === "base64" ? fromBase64(text) : bytesOf(text);
}

function keyFields(label, key) {
  const text = textOf(key);
  const readable = text !== null && plainOf(key) === text;
  return [
    { name: "key", label, required: true, value: readable ? text : base64Of(key) },
    { name: "form", label: "It is given", options: FORMS, value: readable ? "text" : "base64" },
  ];
}

// Run an action, and tell of its error. Returns what it returns; undefined after an error.
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
    return undefined;
  }
}

export async function newKey(prefix, onDone) {
  const given = await ask({
    title: "New key",
    fields: [...keyFields("Key", prefix), { name: "value", label: "Value (text)", type: "textarea" }, { name: "ttl", label: "Deleted after (empty: never)", hint: "30s, 5m, 2h" }],
    command: ({ key, form, value, ttl }) => {
      try {
        return line(`put --if-absent${ttl ? ` --ttl ${word(ttl)}` : ""} ${keyWord(bytesFrom(key, form))} ${keyWord(bytesOf(value))}`, cluster.endpoints);
      } catch {
        return ""; // half of a hexadecimal number
      }
    },
    action: "Create",
  });
  if (!given) return;
  await attempt(async () => {
    const key = bytesFrom(given.key, given.form);
    await api.put(key, bytesOf(given.value), { ifAbsent: true, ttl: given.ttl || undefined });
    say(`${plainOf(key)} was created.`, "good");
    onDone(key);
  });
}

export async function duplicate(key, onDone) {
  const given = await ask({ title: "Duplicate", text: "The copy has the value of this key, and no lease.", fields: keyFields("New key", key), action: "Duplicate" });
  if (!given) return;
  await attempt(async () => {
    const copy = bytesFrom(given.key, given.form);
    const found = await api.get(key);
    if (!found) throw new Error("The key is gone.");
    await api.put(copy, found.value, { ifAbsent: true });
    say(`${plainOf(copy)} was created.`, "good");
    onDone(copy);
  });
}

// Rename in one transaction: only if the key is as it was read, and the new one does not exist.
export async function rename(key, onDone) {
  const given = await ask({ title: "Rename", text: "In one transaction: other clients see one of the two names, never both or none.", fields: keyFields("New key", key), action: "Rename" });
  if (!given) return;
  await attempt(async () => {
    const target = bytesFrom(given.key, given.form);
    if (same(target, key)) return;
    const [found, record] = await Promise.all([api.get(key), api.record(key)]);
    if (!found || !record) throw new Error("The key is gone.");
    const moved = await api.json("POST", "/txn", {
      body: {
        compare: [
          { ...member("key", key), target: "mod_revision", op: "==", number: found.revision },
          { ...member("key", target), target: "mod_revision", op: "==", number: 0 },
        ],
        then: [
          { op: "put", ...member("key", target), ...member("value", found.value), ...(record.lease && { lease: record.lease }) },
          { op: "delete", ...member("key", key) },
        ],
      },
      timeoutMs: 60000,
    });
    if (!moved.succeeded) throw new Error("Not renamed: the key has changed meanwhile, or there is a key with the new name.");
    say(`Renamed to ${plainOf(target)}.`, "good");
    onDone(target);
  });
}

export async function deleteKeys(keys, onDone) {
  const one = keys.length === 1;
  const sure = await ask({
    title: one ? "Delete this key?" : `Delete ${number(keys.length)} keys?`,
    text: h("ul", { class: "names" }, keys.slice(0, 8).map((key) => h("li", {}, plainOf(key))), keys.length > 8 ? h("li", {}, `and ${number(keys.length - 8)} more`) : null),
    command: one ? line(`del ${keyWord(keys[0])}`, cluster.endpoints) : "",
    action: "Delete",
    danger: true,
    typed: keys.length > 20 ? String(keys.length) : "",
  });
  if (!sure) return;
  await attempt(async () => {
    for (let at = 0; at < keys.length; at += BATCH_OPS) {
      const part = keys.slice(at, at + BATCH_OPS);
      const answer = await api.json("POST", "/batch", { body: { ops: part.map((key) => ({ op: "delete", ...member("key", key) })) }, timeoutMs: 60000 });
      const failed = answer.results.find((result) => result.error);
      if (failed) throw new Error(`Some were not deleted: ${failed.error.message}`);
    }
    say(one ? "Deleted." : `${number(keys.length)} keys were deleted.`, "good");
    onDone();
  });
}

export async function deleteBelow(prefix, onDone) {
  const count = await attempt(() => countBelow(prefix));
  if (count === undefined) return;
  if (!count) {
    say("There is no key to delete.");
    return;
  }
  const name = prefix.length ? plainOf(prefix) : "all keys";
  const sure = await ask({
    title: `Delete ${counted(count, "key")}?`,
    text: prefix.length ? `Every key that begins with ${name}.` : "Every key of the cluster.",
    command: line(`del --prefix ${prefix.length ? keyWord(prefix) : "''"}`, cluster.endpoints),
    typed: name,
    action: "Delete them",
    danger: true,
  });
  if (!sure) return;
  await attempt(async () => {
    const bounds = prefix.length ? member("prefix", prefix) : { start_base64: "AA==" };
    let deleted = 0;
    for (;;) {
      const answer = await api.json("POST", "/txn", { body: { then: [{ op: "delete_range", ...bounds, limit: DELETE_AT_ONCE }] }, timeoutMs: 60000 });
      const now = answer.results[0].deleted;
      deleted += now;
      if (now < DELETE_AT_ONCE) break;
    }
    say(`${counted(deleted, "key was", "keys were")} deleted.`, "good");
    onDone();
  });
}

// Upload a file as the value of a key.
export async function upload(prefix, onDone) {
  const file = await pickFile();
  if (!file) return;
  const given = await ask({ title: `Upload ${file.name}`, text: `${sizeText(file.size)}.`, fields: [{ name: "key", label: "Key", required: true, value: (textOf(prefix) ?? "") + file.name }, { name: "replace", label: "Replace the key if there is one", type: "checkbox" }], action: "Upload" });
  if (!given) return;
  await attempt(async () => {
    const key = bytesOf(given.key);
    await api.put(key, file, { ifAbsent: !given.replace });
    say(`${plainOf(key)} was stored.`, "good");
    onDone(key);
  });
}

// A file of lines of JSON, as `GET /keys` streams them: values in base64.
export async function exportBelow(prefix) {
  await attempt(async () => {
    say("The keys are being read …");
    const response = await api.request("GET", "/keys", { query: { prefix, values: "base64", ...api.fresh }, headers: { Accept: "application/x-ndjson" }, timeoutMs: 0 });
    const parts = [];
    let size = 0;
    for await (const part of response.body) {
      size += part.length;
      if (size > EXPORT_BYTES) throw new Error(`More than ${sizeText(EXPORT_BYTES)}: use 'syncline export DIR' or 'syncline backup save'.`);
      parts.push(part);
    }
    const whole = new Blob(parts, { type: "application/x-ndjson" });
    if (!/"end"/.test(await whole.slice(-200).text())) throw new Error("The export is not complete: the connection broke, or the revision was compacted.");
    save("keys.ndjson", whole);
  });
}

export async function exportKeys(keys) {
  await attempt(async () => {
    const lines = [];
    for (const key of keys) {
      const found = await api.get(key);
      if (found) lines.push(JSON.stringify({ ...member("key", key), mod_revision: found.revision, value_base64: base64Of(found.value) }));
    }
    save("keys.ndjson", `${lines.join("\n")}\n`, "application/x-ndjson");
  });
}

export async function importKeys(onDone) {
  const file = await pickFile(".ndjson,.jsonl,.json,.txt");
  if (!file) return;
  const given = await ask({
    title: `Import ${file.name}`,
    text: "Lines of JSON with key (or key_base64) and value (or value_base64), as an export has them. Leases are left out.",
    fields: [{ name: "replace", label: "Replace keys that exist", type: "checkbox" }],
    action: "Import",
  });
  if (!given) return;
  await attempt(async () => {
    const done = { stored: 0, kept: 0, failed: 0, why: "" };
    let ops = [];
    let size = 0;
    const flush = async () => {
      if (!ops.length) return;
      const answer = await api.json("POST", "/batch", { body: { ops }, timeoutMs: 60000 });
      for (const result of answer.results) {
        if (result.status === 200) done.stored += 1;
        else if (result.status === 412) done.kept += 1;
        else [done.failed, done.why] = [done.failed + 1, result.error?.message ?? ""];
      }
      [ops, size] = [[], 0];
    };
    let at = 0;
    for await (const text of linesOf(file)) {
      at += 1;
      if (!text.trim()) continue;
      const op = operation(text, at, !given.replace);
      if (!op) continue;
      if (size + text.length > BATCH_BYTES) await flush();
      ops.push(op);
      size += text.length;
      if (ops.length >= BATCH_OPS) await flush();
    }
    await flush();
    say(`${counted(done.stored, "key")} stored${done.kept ? `, ${number(done.kept)} existed and were kept` : ""}${done.failed ? `, ${number(done.failed)} failed: ${done.why}` : ""}.`, done.failed ? "bad" : "good");
    onDone();
  });
}

function operation(text, at, ifAbsent) {
  let item;
  try {
    item = JSON.parse(text);
  } catch (error) {
    throw new Error(`Line ${at} is not JSON: ${error.message}. The lines before it may be stored.`);
  }
  if (item.end !== undefined) return null;
  const [key, value] = [bytesIn(item, "key"), bytesIn(item, "value")];
  if (!key || !value) throw new Error(`Line ${at} has no key, or no value. The lines before it may be stored.`);
  return { op: "put", ...member("key", key), ...member("value", value), ...(ifAbsent && { if_absent: true }) };
}

async function* linesOf(file) {
  let rest = "";
  for await (const part of file.stream().pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  yield rest;
}
