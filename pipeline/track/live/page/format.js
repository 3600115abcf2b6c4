// Numbers as people read them. A metric's name ends in its unit: _frac, _bytes, _per_s, _s, _images.

const SCALES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** 12345678 -> "12.3M"; digits: how many count. */
export function short(value, digits = 3) {
  for (const [scale, letter] of SCALES) {
    if (Math.abs(value) >= scale) return `${Number((value / scale).toPrecision(digits))}${letter}`;
  }
  return `${Number(value.toPrecision(digits))}`;
}

/** A value of a metric, with its unit. */
export function withUnit(key, value, digits = 4) {
  if (value === null || value === undefined) return "not finite";
  if (key.endsWith("_frac")) return `${Number((100 * value).toPrecision(digits))} %`;
  if (key.endsWith("bytes_per_s")) return `${short(value, digits)}B/s`;
  if (key.endsWith("_bytes")) return `${short(value, digits)}B`;
  if (key.endsWith("images_per_s")) return `${short(value, digits)} images/s`;
  if (key.endsWith("_per_s")) return `${short(value, digits)}/s`;
  if (key.endsWith("_s")) return `${Number(value.toPrecision(digits))} s`;
  return short(value, digits);
}

/** 1234567 -> "1,234,567". */
export function whole(value) {
  return Math.round(value).toLocaleString("en");
}

/** 4000 seconds -> "1 h 7 min". */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

/** What a cell of a table or an option holds. */
export function cell(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number" && !Number.isInteger(value)) return `${Number(value.toPrecision(5))}`;
  if (typeof value === "number") return Math.abs(value) >= 10000 ? whole(value) : `${value}`;
  return typeof value === "string" ? value : JSON.stringify(value);
}
