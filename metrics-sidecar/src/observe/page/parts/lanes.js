// A lane for each endpoint: its state, the requests in it, and its figures.
import { el, mark, renew, say, $ } from './dom.js';
import { Dots } from './dots.js';
import { compact as short, count, endpoint, percent } from './format.js';
import { laneKey, lanes, PodHits, trouble } from './model.js';
import { REASONS, sign } from './reasons.js';

/** With more endpoints than this, lanes are low, and those that are out come first. */
const ROOMY = 24;
const COLUMNS = [
  ['pod', 'Pod'],
  ['state', 'State'],
  ['track', ''],
  ['flight', 'In flight', 'requests routed there and not over, by the journal'],
  ['running', 'Running', 'at the last scrape'],
  ['waiting', 'Waiting', 'at the last scrape'],
  ['kv', 'KV', 'share of the KV cache that requests hold, at the last scrape'],
  ['warm', 'Warm', 'share of the KV cache believed to hold prompts that can be found again'],
  ['hits', 'Hits', 'prompt tokens found in the cache, by the pod’s own counters: of the last minute, or since its start'],
];

export class LaneList {
  constructor(root) {
    this.root = root;
    this.rows = new Map();
    this.dots = new Dots();
    this.hits = new PodHits();
    this.head = el('div.lane.head', { role: 'row' },
      ...COLUMNS.map(([name, title, says]) => el(`div.${name}`, { role: 'columnheader', title: says }, title)));
    this.head.children[2].append(el('span', {}, 'until the first token'), el('span', {}, 'being answered'));
    $('legend').append(...Object.entries(REASONS).map(([reason, { says }]) => el('span', { title: says }, sign(reason), ` ${reason}`)));
  }

  /** Takes a new /status. */
  update(status, view, now) {
    const rows = lanes(status, view);
    this.hits.take(rows, now);
    const compact = rows.length > ROOMY;
    this.root.classList.toggle('compact', compact);
    // It scrolls then, and must do so by keyboard too.
    mark(this.root, 'tabindex', compact ? 0 : null);
    if (compact) rows.sort((a, b) => a.choosable - b.choosable);
    const pools = new Set(rows.map((row) => row.pool));
    renew(this.root, rows.map((row) => row.key).join(), () => this.arrange(rows));
    for (const row of rows) {
      this.show(this.rows.get(row.key), row, pools.size > 1);
      this.dots.reconcile(row.key, row.inFlight);
    }
  }

  /** The elements of the lanes, those that are already there as they are. */
  arrange(rows) {
    const present = new Set(rows.map((row) => row.key));
    for (const key of this.rows.keys()) {
      if (present.has(key)) continue;
      this.dots.remove(key);
      this.rows.delete(key);
    }
    for (const { key } of rows) if (!this.rows.has(key)) this.rows.set(key, this.make(key));
    return [this.head, ...rows.map((row) => this.rows.get(row.key).lane)];
  }

  make(key) {
    const parts = {};
    const cells = COLUMNS.map(([name, title]) => {
      parts[name] = el('span.value');
      const more = { kv: meter, warm: meter }[name]?.();
      if (more) parts[`${name}Meter`] = more.firstChild;
      if (name === 'track') parts.track = el('canvas', { 'aria-hidden': 'true' });
      const label = ['pod', 'state', 'track'].includes(name) ? null : el('span.label', { 'aria-hidden': 'true' }, title);
      return el(`div.${name}`, { role: name === 'pod' ? 'rowheader' : 'cell' }, label, parts[name], more);
    });
    parts.under = el('span.under');
    cells[0].append(parts.under);
    parts.lane = el('div.lane', { role: 'row' }, ...cells);
    this.dots.add(key, parts.track);
    return parts;
  }

  show(parts, row, pools) {
    const hits = this.hits.of(row);
    const problem = trouble(row);
    mark(parts.lane, 'data-state', row.choosable ? 'ready' : row.state);
    mark(parts.lane, 'title', problem || null);
    say(parts.pod, row.pod.name ?? endpoint(row.pod.address, row.rank));
    const under = [pools ? row.pool : null, row.pod.name ? endpoint(row.pod.address, row.rank) : null];
    say(parts.under, under.filter(Boolean).join(' · '));
    say(parts.state, row.state);
    say(parts.flight, count(row.inFlight));
    say(parts.running, count(row.running));
    say(parts.waiting, count(row.waiting));
    say(parts.kv, percent(row.kv));
    say(parts.warm, percent(row.warm));
    mark(parts.warm, 'title', row.cached == null ? null : `${short(row.cached)} of ${short(row.capacity)} tokens`);
    parts.kvMeter.style.transform = `scaleX(${Math.min(1, row.kv ?? 0)})`;
    parts.warmMeter.style.transform = `scaleX(${row.warm ?? 0})`;
    say(parts.hits, percent(hits.ratio));
    mark(parts.hits, 'data-recent', hits.recent ? '' : null);
  }

  /** Takes the events of the chosen plugin's requests. */
  take(events) {
    for (const event of events) this.dots.take(event, event.endpoint ? laneKey(event.endpoint, event.rank) : null);
  }
}

const meter = () => el('div.meter', { 'aria-hidden': 'true' }, el('div'));
