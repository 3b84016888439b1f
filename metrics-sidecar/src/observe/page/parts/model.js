// What the page knows, put together from /status as it comes: one row an endpoint, from what was scraped and what the
// journal says of it.

/** Names a view: a plugin may have two while its gateway is being upgraded. */
export const viewKey = (view) => `${view.plugin} ${view.fingerprint}`;
export const laneKey = (address, rank) => `${address} ${rank ?? ''}`;

/** The view to begin with: with a stream rather than without, then the busiest. */
export function busiest(views) {
  const weight = (view) => (view.streams ? 1e12 : 0) + (view.traffic?.hour.requests ?? 0);
  return [...views].sort((a, b) => weight(b) - weight(a))[0];
}

/** A row an endpoint, pools and pods in order. */
export function lanes(status, view) {
  const believed = new Map((view?.endpoints ?? []).map((e) => [laneKey(e.address, e.rank), e]));
  const rows = status.pods.flatMap((pod) =>
    pod.endpoints.map((endpoint) => {
      const key = laneKey(pod.address, endpoint.rank);
      const known = believed.get(key);
      return {
        key,
        pod,
        endpoint,
        pool: pod.pool,
        name: pod.name ?? pod.address,
        rank: endpoint.rank,
        state: pod.unready ? 'not ready' : endpoint.state,
        choosable: endpoint.choosable,
        running: endpoint.running,
        waiting: endpoint.waiting,
        kv: endpoint.kv_usage,
        inFlight: known?.in_flight ?? null,
        decoding: known?.decoding ?? null,
        warm: known && endpoint.capacity_tokens ? Math.min(1, known.cached_tokens / endpoint.capacity_tokens) : null,
        cached: known?.cached_tokens ?? null,
        capacity: endpoint.capacity_tokens,
      };
    }),
  );
  const order = new Intl.Collator('en', { numeric: true }).compare;
  return rows.sort((a, b) => order(a.pool, b.pool) || order(a.name, b.name) || (a.rank ?? 0) - (b.rank ?? 0));
}

/** What is wrong with a pod, in words; empty if nothing is. */
export function trouble(lane) {
  if (lane.pod.error) return lane.pod.error;
  return lane.pod.unready ? 'not Ready, says Kubernetes' : '';
}

/** The share of looked-up tokens that a pod found in its cache, over about the last minute, by its own counters. */
export class PodHits {
  constructor() {
    this.samples = new Map();
  }

  /** Takes a new /status. */
  take(rows, now) {
    for (const row of rows) {
      const list = this.samples.get(row.key) ?? [];
      const { queried_tokens: queried, hit_tokens: hit } = row.endpoint;
      // A pod that restarts counts from zero again.
      if (list.length && list.at(-1).queried > queried) list.length = 0;
      list.push({ now, queried, hit });
      while (list.length > 2 && list[0].now < now - 60) list.shift();
      this.samples.set(row.key, list);
    }
    const present = new Set(rows.map((row) => row.key));
    for (const key of this.samples.keys()) if (!present.has(key)) this.samples.delete(key);
  }

  /** `{ratio, recent}`: of the last minute, or since the pod's start where nothing was looked up since. */
  of(row) {
    const list = this.samples.get(row.key) ?? [];
    const queried = list.length ? list.at(-1).queried - list[0].queried : 0;
    if (queried > 0) return { ratio: (list.at(-1).hit - list[0].hit) / queried, recent: true };
    return { ratio: row.endpoint.hit_ratio, recent: false };
  }
}
