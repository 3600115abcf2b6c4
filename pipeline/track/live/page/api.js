// What the page asks of its server.

async function get(path, query) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** All runs in a line each: {version, runs}; without `runs` where nothing changed since the version `known`. */
export function getRuns(known) {
  return get("api/runs", { known });
}

/** What one run has since: {cursor, is_whole, series, titles}; config, facts, summary and media too if not `about`. */
export function getRun(id, cursor, about) {
  return get("api/run", { id, cursor, about });
}

/** A picture's or table's address, another one when it is made again. */
export function mediaAddress(id, { file, made }) {
  return `media?${new URLSearchParams({ id, file, made })}`;
}

/** {columns, rows} of a table. */
export function getTable(id, { file, made }) {
  return get("media", { id, file, made });
}
