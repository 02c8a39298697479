/** The live connection: opens, watches, and comes back by itself when it breaks. */

/** First and longest wait before a new try. */
const FIRST_MS = 400;
const LONGEST_MS = 15_000;
/** A quiet connection may be a dead one (a laptop that slept, a frozen tunnel): ask after this long. */
const QUIET_MS = 30_000;

/**
 * How long to wait before try number n: doubling, and spread so that many pages don't come back at the same instant.
 *
 * @param {number} attempt from 0
 * @param {number} random 0 to 1
 */
export function backoff(attempt, random) {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt) * (0.5 + random / 2);
}

/**
 * @param {object} env
 * @param {() => WebSocket} env.open
 * @param {() => Promise<unknown>} env.probe rejects with an ApiError when the server can't be reached or refuses the key
 * @param {(message: any) => void} env.onMessage
 * @param {(value: import("./types.js").Connection) => void} env.onConnection
 * @param {(callback: () => void, ms: number) => any} [env.setTimer]
 * @param {(timer: any) => void} [env.clearTimer]
 * @param {() => number} [env.random]
 */
export function createLive({ open, probe, onMessage, onConnection, setTimer = setTimeout, clearTimer = clearTimeout, random = Math.random }) {
  /** @type {WebSocket | null} */
  let socket = null;
  /** @type {string | null} */
  let watched = null;
  /** @type {any} */
  let timer = null;
  /** @type {any} */
  let quiet = null;
  let attempt = 0;
  let ended = false;

  function connect() {
    clearTimer(timer);
    timer = null;
    if (ended) return;
    const opened = open();
    socket = opened;
    opened.onopen = () => {
      attempt = 0;
      onConnection("open");
      send({ type: "watch_runs" });
      if (watched) send({ type: "watch", run: watched });
      listen();
    };
    opened.onmessage = (event) => {
      listen();
      onMessage(JSON.parse(event.data));
    };
    opened.onclose = () => {
      if (socket === opened) lost();
    };
  }

  /** A refused handshake and a dead server look the same from here; a plain request tells them apart. */
  async function lost() {
    socket = null;
    clearTimer(quiet);
    if (ended) return;
    onConnection("lost");
    const denied = await probe().then(() => false, (error) => error?.kind === "denied");
    if (socket || ended) return;
    if (denied) onConnection("denied");
    clearTimer(timer);
    timer = setTimer(connect, denied ? LONGEST_MS : backoff(attempt, random()));
    attempt += 1;
  }

  function listen() {
    clearTimer(quiet);
    quiet = setTimer(() => probe().then(listen, drop), QUIET_MS);
  }

  /** Closing a dead connection properly can take minutes: leave it behind. */
  function drop() {
    const dead = socket;
    if (!dead) return;
    socket = null;
    dead.close();
    lost();
  }

  /** @param {object} message */
  function send(message) {
    if (socket?.readyState === 1) socket.send(JSON.stringify(message));
  }

  return {
    start: connect,
    /** @param {string | null} run the one to get rows of */
    watch(run) {
      if (run === watched) return;
      if (watched) send({ type: "unwatch", run: watched });
      watched = run;
      if (run) send({ type: "watch", run });
    },
    /** Try at once: the network is back, or the reader looks again. */
    hurry() {
      if (timer !== null && !socket) connect();
    },
    stop() {
      ended = true;
      clearTimer(timer);
      clearTimer(quiet);
      socket?.close();
      socket = null;
    },
  };
}
