// Prometheus' text format, as far as a node writes it.

// Samples by name: [{labels, value}].
export function parsed(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const end = line.lastIndexOf(" ");
    const brace = line.indexOf("{");
    const name = line.slice(0, brace < 0 ? end : brace);
    const labels = {};
    if (brace >= 0) for (const [, label, value] of line.slice(brace, end).matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) labels[label] = value;
    const text_ = line.slice(end + 1);
    const sample = { labels, value: text_ === "+Inf" ? Infinity : Number(text_) };
    if (found.has(name)) found.get(name).push(sample);
    else found.set(name, [sample]);
  }
  return found;
}

export const one = (samples, name) => samples.get(name)?.[0]?.value ?? null;

export const sum = (samples, name, keep = () => true) => (samples.get(name) ?? []).reduce((total, sample) => (keep(sample.labels) ? total + sample.value : total), 0);

// A quantile of a histogram between two moments, in the unit of its bounds; null if nothing was counted.
export function quantile(before, now, name, share, keep = () => true) {
  const counts = new Map();
  for (const [samples, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
      if (!keep(labels)) continue;
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + sign * value);
    }
  }
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const total = counts.get(Infinity) ?? 0;
  if (total <= 0) return null;
  let below = 0;
  let low = 0;
  for (const bound of bounds) {
    const within = counts.get(bound);
    if (within >= share * total) return bound === Infinity ? low : low + ((bound - low) * (share * total - below)) / Math.max(1, within - below);
    [below, low] = [within, bound];
  }
  return low;
}
