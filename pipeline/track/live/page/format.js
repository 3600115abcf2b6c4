// Numbers as people read them. A metric's name ends in its unit: _frac, _bytes, _per_s, _s, _images.

const SCALES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** For axes: 12345678 -> "12.3M"; digits: how many count. */
export function short(value, digits = 3) {
  for (const [scale, letter] of SCALES) {
    if (Math.abs(value) >= scale) return `${Number((value / scale).toPrecision(digits))}${letter}`;
  }
  return `${Number(value.toPrecision(digits))}`;
}

/** 12345.678 -> "12,350"; very large and very small numbers with their power of ten. */
export function plain(value, digits = 4) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A value of a metric, with its unit. */
export function withUnit(key, value, digits = 4) {
  if (value === null || value === undefined) return "not finite";
  if (key.endsWith("_frac")) return `${plain(100 * value, digits)} %`;
  if (key.endsWith("bytes_per_s")) return `${bytes(value)}/s`;
  if (key.endsWith("_bytes")) return bytes(value);
  if (key.endsWith("images_per_s")) return `${plain(value, digits)} images/s`;
  if (key.endsWith("_per_s")) return Math.abs(value) >= 1e6 ? `${short(value)}/s` : `${plain(value, digits)}/s`;
  return key.endsWith("_s") ? `${plain(value, digits)} s` : plain(value, digits);
}

function bytes(value) {
  const [, number, letter] = short(value).match(/^(.*?)([kMGT]?)$/);
  return `${number} ${letter}B`;
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
  if (Number.isInteger(value)) return Math.abs(value) < 10000 ? `${value}` : whole(value);
  if (typeof value === "number") return plain(value, 5);
  return typeof value === "string" ? value : JSON.stringify(value);
}
