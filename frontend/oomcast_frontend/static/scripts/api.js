/** The server's REST answers, or an `ApiError` that says which kind of "no" it was. */

export class ApiError extends Error {
  /**
   * @param {"denied" | "unknown" | "broken" | "unreachable"} kind
   * @param {string} [detail]
   */
  constructor(kind, detail = "") {
    super(detail || kind);
    this.kind = kind;
  }
}

/** @type {Record<number, ApiError["kind"]>} */
const KINDS = { 401: "denied", 403: "denied", 404: "unknown" };
/** Longer than any answer should take; shorter than a reader's patience. */
const TIMEOUT_MS = 20_000;

/** @param {typeof fetch} [send] */
export function createApi(send = (...args) => fetch(...args)) {
  /**
   * @param {string} path
   * @param {AbortSignal} [signal]
   */
  async function get(path, signal) {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    let response;
    try {
      response = await send(path, {
        headers: { Accept: "application/json" }, credentials: "same-origin",
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("unreachable");
    }
    if (!response.ok) throw new ApiError(KINDS[response.status] ?? "broken", `${response.status}`);
    return response.json();
  }

  return {
    server: () => get("/api/server"),
    runs: () => get("/api/runs"),
    /** @param {string} id */
    run: (id) => get(`/api/runs/${encodeURIComponent(id)}`),
    /**
     * @param {string} id
     * @param {{source: string | null, x: string, from: number | null, to: number | null, points: number}} wanted
     * @param {AbortSignal} [signal]
     */
    series(id, { source, x, from, to, points }, signal) {
      const query = new URLSearchParams({ x, points: String(points) });
      if (source !== null) query.set("source", source);
      if (from !== null) query.set("from", String(Math.floor(from)));
      if (to !== null) query.set("to", String(Math.ceil(to)));
      return get(`/api/runs/${encodeURIComponent(id)}/series?${query}`, signal);
    },
  };
}
