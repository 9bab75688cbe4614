const TICK_MS = 50;

export interface StallWatch {
  /** For how long, in ms, the event loop has been late since the watch began. */
  stalledMs(): number;
  stop(): void;
}

/** Measures how late this process is itself: suspended, starved of a processor, or busy with something long. */
export function watchStalls(): StallWatch {
  let last = performance.now();
  let stalled = 0;
  const tick = () => {
    const now = performance.now();
    stalled += Math.max(0, now - last - TICK_MS);
    last = now;
  };
  const timer = setInterval(tick, TICK_MS);
  return {
    stalledMs: () => stalled + Math.max(0, performance.now() - last - TICK_MS),
    stop: () => clearInterval(timer),
  };
}
