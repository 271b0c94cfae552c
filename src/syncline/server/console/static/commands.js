// The command line, curl and Python for what the console does.

import { percent, plainOf, textOf } from "./bytes.js";

// A word for a POSIX shell.
export function word(text) {
  return /^[A-Za-z0-9_\/.:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

// A key as a word; $'…' for one that is not plain text.
export function keyWord(bytes) {
  const text = textOf(bytes);
  const plain = plainOf(bytes);
  if (text !== null && plain === text) return text.startsWith("-") ? `-- ${word(text)}` : word(text);
  return `$'${Array.from(bytes, (one) => (one > 31 && one < 127 && one !== 39 && one !== 92 ? String.fromCharCode(one) : `\\x${one.toString(16).padStart(2, "0")}`)).join("")}'`;
}

// A command that names a server, unless it is among those that the command tries by itself.
export function line(arguments_, endpoints) {
  const usual = endpoints.some((one) => one === "http://127.0.0.1:8080" || one === "http://localhost:8080");
  const flag = usual || !endpoints.length ? "" : ` --endpoints ${word(endpoints[0])}`;
  return `syncline${flag} ${arguments_}`;
}

export function pythonKey(bytes) {
  const text = textOf(bytes);
  if (text !== null && plainOf(bytes) === text && !/["\\]/.test(text)) return `"${text}"`;
  return `b"${Array.from(bytes, (one) => (one > 31 && one < 127 && one !== 34 && one !== 92 ? String.fromCharCode(one) : `\\x${one.toString(16).padStart(2, "0")}`)).join("")}"`;
}

// How to read and write one key, in three ways.
export function waysFor(key, revision, { home, endpoints, guarded }) {
  const url = `${home}/key?key=${percent(key)}`;
  const auth = guarded ? ` -H "Authorization: Bearer $(cat token)"` : "";
  const token = guarded ? `, token=open("token").read().strip()` : "";
  return {
    curl: [`curl${auth} '${url}'`, `curl${auth} -X PUT -H 'If-Match: "${revision}"' --data-binary @value '${url}'`].join("\n"),
    Python: [
      "from syncline.client import Client",
      "",
      `with Client("${endpoints[0] ?? home}"${token}) as kv:`,
      `    item = kv.get(${pythonKey(key)})`,
      `    kv.put(${pythonKey(key)}, b"new", if_revision=item.mod_revision)`,
    ].join("\n"),
    "Command line": [line(`get ${keyWord(key)}`, endpoints), line(`put --file value --if-revision ${revision} ${keyWord(key)}`, endpoints)].join("\n"),
  };
}
