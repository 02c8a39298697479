/**
 * Who may draw when: at most once a frame each, first come first served, and no more than a share of the time, so that
 * the page stays quick to the hand (and the machine to the training that it watches) however fast the samples come.
 */

/** Drawing may take a third of the main thread: after each drawing, twice its time is left to others. */
const REST = 2;
/** Begin no further drawing in a frame that has used this much. */
const FRAME_MS = 12;

/**
 * @param {object} [env]
 * @param {(callback: () => void) => unknown} [env.request]
 * @param {() => number} [env.now] ms
 */
export function createFrames({ request = (callback) => requestAnimationFrame(callback), now = () => performance.now() } = {}) {
  /** @type {Map<object, {draw: () => void | Promise<void>, notBefore: number, dirty: boolean, busy: boolean}>} */
  const jobs = new Map();
  let asked = false;

  function ask() {
    if (asked) return;
    asked = true;
    request(frame);
  }

  function frame() {
    asked = false;
    const start = now();
    for (const job of jobs.values()) {
      if (!job.dirty || job.busy || now() < job.notBefore) continue;
      if (now() - start > FRAME_MS) break;
      run(job);
    }
    if ([...jobs.values()].some((job) => job.dirty && !job.busy)) ask();
  }

  /** @param {{draw: () => void | Promise<void>, notBefore: number, dirty: boolean, busy: boolean}} job */
  async function run(job) {
    job.dirty = false;
    job.busy = true;
    const start = now();
    const done = job.draw();
    // Only what held the main thread counts, not what was waited for.
    job.notBefore = now() + REST * (now() - start);
    try {
      await done;
    } finally {
      job.busy = false;
      if (job.dirty) ask();
    }
  }

  return {
    /**
     * @param {object} owner
     * @param {() => void | Promise<void>} draw
     */
    invalidate(owner, draw) {
      const job = jobs.get(owner);
      if (job) job.dirty = true;
      else jobs.set(owner, { draw, notBefore: 0, dirty: true, busy: false });
      ask();
    },
    /** @param {object} owner */
    forget(owner) {
      jobs.delete(owner);
    },
  };
}
