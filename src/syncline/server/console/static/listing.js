// Listings of keys, page by page: flat, as folders, and with a filter. Each gives rows and says whether there are more.

import { api } from "./api.js";
import { bytesIn, join, plainOf, prefixEnd, startsWith, urlBase64 } from "./bytes.js";

const PAGE = 300;
const FOLDER_PAGE = 60; // keys asked for at a time while folders are looked for: most of them are skipped
const FOLDER_ROWS = 100; // rows of one page of folders
const FOLDER_REQUESTS = 4; // and requests: what was found is shown while more is asked for
const SCAN_PAGE = 1000;
export const SCAN_KEYS = 100_000; // keys that one search looks at before it asks whether to go on
const LONGEST_KEY = 1024;

const rowOf = (item) => ({ kind: "key", key: bytesIn(item, "key"), item });

// Keys in order. `query.prefix` are bytes.
export class FlatListing {
  constructor(prefix) {
    Object.assign(this, { prefix, after: undefined, done: false, count: null });
  }

  async next(signal) {
    const page = await api.list({ prefix: this.prefix, after: this.after, limit: PAGE }, { signal });
    this.count = page.count;
    this.after = page.next;
    this.done = !page.more || !page.next;
    return page.keys.map(rowOf);
  }
}

// The keys and folders directly below a prefix. A folder is skipped by asking for the keys behind all of its own.
export class FolderListing {
  constructor(prefix, separator) {
    Object.assign(this, { prefix, separator, after: undefined, done: false, count: null });
  }

  async next(signal) {
    const rows = [];
    for (let asked = 0; !this.done && rows.length < FOLDER_ROWS && asked < FOLDER_REQUESTS; asked += 1) {
      const page = await api.list({ prefix: this.prefix, after: this.after, limit: FOLDER_PAGE }, { signal });
      this.count ??= page.count;
      let skipped = null;
      for (const item of page.keys) {
        const key = bytesIn(item, "key");
        if (skipped && startsWith(key, skipped)) continue;
        skipped = this.folderOf(key);
        rows.push(skipped ? { kind: "folder", prefix: skipped, count: null } : rowOf(item));
      }
      this.done = !page.more;
      this.after = skipped ? behind(skipped) : page.next;
      if (!this.after) this.done = true;
    }
    return rows;
  }

  // The folder of a key that is not directly below the prefix; null for one that is.
  folderOf(key) {
    for (let at = this.prefix.length; at <= key.length - this.separator.length; at += 1) {
      if (startsWith(key.subarray(at), this.separator)) return key.slice(0, at + this.separator.length);
    }
    return null;
  }
}

// The text for `after` that skips every key with this prefix: the prefix and bytes of the highest value.
function behind(prefix) {
  if (prefixEnd(prefix) === null) return null;
  return `base64:${urlBase64(join(prefix, new Uint8Array(Math.max(1, LONGEST_KEY - prefix.length)).fill(255)))}`;
}

// Keys that contain a text. It reads all keys below the prefix, a page at a time.
export class SearchListing {
  constructor(prefix, text, onProgress) {
    Object.assign(this, { prefix, text, onProgress, after: undefined, done: false, count: null, scanned: 0, limit: SCAN_KEYS, paused: false });
  }

  async next(signal) {
    const rows = [];
    while (!this.done && rows.length < PAGE / 3) {
      if (this.scanned >= this.limit) {
        this.paused = true;
        break;
      }
      const page = await api.list({ prefix: this.prefix, after: this.after, limit: SCAN_PAGE }, { signal });
      this.count = page.count;
      this.scanned += page.keys.length;
      for (const item of page.keys) {
        const row = rowOf(item);
        if ((item.key ?? plainOf(row.key)).includes(this.text)) rows.push(row);
      }
      this.after = page.next;
      this.done = !page.more || !page.next;
      this.onProgress(this);
    }
    return rows;
  }
}

export async function countBelow(prefix, signal) {
  return (await api.list({ prefix, count: true }, { signal })).count;
}
