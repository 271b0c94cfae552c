// Keys and values are bytes. They are shown as text if they are UTF-8, and always in a form that can't deceive.

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

// Characters that are not seen, or that change the order of others: control characters, marks of direction
// ("bidi"), joiners, spaces of odd widths, private use, tags (two units of UTF-16).
const HIDDEN =
  /[\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ue000-\uf8ff]|\udb40[\udc00-\udfff]/g;

// A backslash that looks like the begin of an escape.
const LOOKALIKE = /\\(?=u[0-9a-f]{4}|x[0-9a-f]{2})/g;

export const bytesOf = (text) => encoder.encode(text);

export function textOf(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null; // not UTF-8
  }
}

export function base64Of(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

export function fromBase64(text) {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/").replaceAll(/\s/g, ""));
  return Uint8Array.from(plain, (one) => one.charCodeAt(0));
}

export const urlBase64 = (bytes) => base64Of(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

export function hexOf(bytes) {
  return Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
}

export function fromHex(text) {
  const digits = text.replaceAll(/\s/g, "");
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) throw new Error("hexadecimal digits come in pairs, such as 0a ff");
  return Uint8Array.from(digits.match(/../g) ?? [], (one) => Number.parseInt(one, 16));
}

export const same = (a, b) => a.length === b.length && a.every((one, at) => one === b[at]);

export function startsWith(bytes, prefix) {
  return bytes.length >= prefix.length && prefix.every((one, at) => one === bytes[at]);
}

export function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// Percent-encoding of every byte that is not plain: right in a query for any key.
export function percent(bytes) {
  let text = "";
  for (const one of bytes) {
    const plain = (one >= 48 && one <= 57) || (one >= 65 && one <= 90) || (one >= 97 && one <= 122) || one === 45 || one === 46 || one === 95 || one === 126;
    text += plain ? String.fromCharCode(one) : `%${one.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return text;
}

// The bytes of a member of an answer: `name`, or `name_base64`.
export function bytesIn(item, name) {
  if (item[name] !== undefined) return bytesOf(item[name]);
  const coded = item[`${name}_base64`];
  return coded === undefined ? null : fromBase64(coded);
}

// The member of a request that stands for bytes.
export function member(name, bytes) {
  const text = textOf(bytes);
  return text === null ? { [`${name}_base64`]: base64Of(bytes) } : { [name]: text };
}

// One line of text for bytes, hidden characters and other bytes escaped with backslashes. Two keys never look the same.
// A text that is shown `asWritten` has its backslashes as they are: the escapes of JSON are common in values.
export function plainOf(bytes, { asWritten = false } = {}) {
  const text = textOf(bytes);
  if (text === null) return Array.from(bytes, (one) => (one > 31 && one < 127 && one !== 92 ? String.fromCharCode(one) : `\\x${one.toString(16).padStart(2, "0")}`)).join("");
  return (asWritten ? text : text.replaceAll(LOOKALIKE, escapedOf)).replaceAll(HIDDEN, escapedOf);
}

const escapedOf = (one) => Array.from({ length: one.length }, (_, at) => `\\u${one.charCodeAt(at).toString(16).padStart(4, "0")}`).join("");

// Bytes as an element: escapes stand out, and the direction of the text stays within it.
export function shown(bytes, { most = 512, asWritten = false } = {}) {
  const cut = bytes.length > most;
  const part = cut ? bytes.subarray(0, most) : bytes;
  const element = document.createElement("bdi");
  element.className = "bytes";
  const plain = plainOf(cut && textOf(part) === null && textOf(bytes) !== null ? wholeCharacters(part) : part, { asWritten });
  for (const piece of plain.split(/(\\u[0-9a-f]{4}|\\x[0-9a-f]{2})/)) {
    if (!piece) continue;
    if (/^\\[ux]/.test(piece)) {
      const mark = document.createElement("span");
      mark.className = "escape";
      mark.textContent = piece;
      element.append(mark);
    } else element.append(piece);
  }
  if (cut) element.append("…");
  if (!bytes.length) element.append("(empty)");
  return element;
}

// The bytes without a character that is cut off at the end.
export function wholeCharacters(bytes) {
  for (let end = bytes.length; end > Math.max(0, bytes.length - 4); end -= 1) {
    if (textOf(bytes.subarray(0, end)) !== null) return bytes.subarray(0, end);
  }
  return bytes;
}

// The first bytes behind all keys with a prefix; null: there are none.
export function prefixEnd(prefix) {
  for (let at = prefix.length - 1; at >= 0; at -= 1) {
    if (prefix[at] < 255) {
      const end = prefix.slice(0, at + 1);
      end[at] += 1;
      return end;
    }
  }
  return null;
}

export function sizeText(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1024 * 1024) return `${(count / 1024).toFixed(1)} KiB`;
  if (count < 1024 * 1024 * 1024) return `${(count / 1024 / 1024).toFixed(1)} MiB`;
  return `${(count / 1024 / 1024 / 1024).toFixed(1)} GiB`;
}

/** A number with its word: "1 key", "2 keys". */
export const counted = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en-US"));
