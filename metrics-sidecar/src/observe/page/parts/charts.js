// Small charts of the last hour: lines or bars over time, and the values at the pointer, or at the arrow keys, as text.
import { el, mark, say, svg } from './dom.js';
import { clock } from './format.js';

const STEP_S = 10;
/** Drawn in these units and stretched to the figure's width. */
const WIDTH = 360;
const HEIGHT = 80;
/** How much is shown: the shortest that has all there is. */
const SPANS_S = [300, 900, 3600];

/** The buckets of a view by the moment they began, in seconds since 1970. */
export class Series {
  constructor() {
    this.buckets = new Map();
  }

  /** Takes what a `status` event has, all of it or the newest two; told by their distance from the present one. */
  take(series, now) {
    for (const bucket of series) this.buckets.set(Math.floor(now / STEP_S) * STEP_S + bucket.at_s, bucket);
    for (const at of this.buckets.keys()) if (at < now - 3600 - STEP_S) this.buckets.delete(at);
  }

  /** `[[moment, bucket], …]`, oldest first, without the present one, which is not over. */
  list(now) {
    return [...this.buckets].filter(([at]) => at + STEP_S <= now).sort((a, b) => a[0] - b[0]);
  }
}

/**
 * A chart in `figure`. `lines`: `{name, of: bucket => number|null, kind: 'line'|'second'|'bars'}`; `scale`: value to a
 * share of the height; `marks`: values with a line across; `show`: a value as text.
 */
export class Chart {
  constructor(figure, title, { lines, scale, marks, show }) {
    Object.assign(this, { title, lines, scale, marks, show, points: [], at: null });
    this.paths = lines.map((line) => svg('path', { class: line.kind }));
    this.across = svg('path', { class: 'grid' });
    this.cursor = svg('path', { class: 'cursor' });
    this.picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      this.across, ...this.paths, this.cursor);
    this.axis = el('div.axis', { 'aria-hidden': 'true' });
    this.box = el('div.plot', { tabindex: 0, role: 'slider', 'aria-label': `${title} over time`, 'aria-valuemin': 0 }, this.picture, this.axis);
    this.legend = el('figcaption');
    figure.append(this.box, this.legend);
    this.box.addEventListener('pointermove', (event) => this.point(event.offsetX / this.picture.clientWidth));
    this.box.addEventListener('pointerleave', () => this.leave());
    this.box.addEventListener('blur', () => this.leave());
    this.box.addEventListener('keydown', (event) => this.key(event));
  }

  /** Draws a series as of `now`. */
  draw(series, now) {
    this.points = series.list(now);
    const age = now - (this.points[0]?.[0] ?? now);
    this.span = SPANS_S.find((span) => span >= age) ?? SPANS_S.at(-1);
    this.from = now - this.span;
    this.points = this.points.filter(([at]) => at >= this.from - STEP_S);
    const values = this.points.flatMap(([, bucket]) => this.lines.map((line) => line.of(bucket))).filter((v) => v != null);
    this.top = Math.max(0, ...values);
    this.lines.forEach((line, n) => mark(this.paths[n], 'd', line.kind === 'bars' ? this.bars(line) : this.line(line)));
    const marks = this.marks(this.top);
    mark(this.across, 'd', marks.map((value) => `M0 ${this.y(value)}h${WIDTH}`).join(''));
    const labels = marks.map((value) => [this.show(value), this.y(value) / HEIGHT]);
    if (this.axis.dataset.key !== labels.join()) {
      this.axis.dataset.key = labels.join();
      this.axis.replaceChildren(...labels.map(([text, share]) => {
        const label = el('span', {}, text);
        label.style.top = `${share * 100}%`;
        return label;
      }));
    }
    this.tell();
  }

  x(at) {
    return ((at - this.from) / this.span) * WIDTH;
  }

  y(value) {
    return (HEIGHT - 2 - Math.min(1, Math.max(0, this.scale(value, this.top))) * (HEIGHT - 6)).toFixed(1);
  }

  /** A line with gaps where there is no value; a lone value is a short stroke. */
  line({ of }) {
    let path = '';
    let before = null;
    for (const [at, bucket] of this.points) {
      const value = of(bucket);
      if (value == null) continue;
      const joined = before != null && at - before <= 3 * STEP_S;
      path += `${joined ? 'L' : 'M'}${this.x(at).toFixed(1)} ${this.y(value)}${joined ? '' : 'h.6'}`;
      before = at;
    }
    return path;
  }

  bars({ of }) {
    const width = ((STEP_S / this.span) * WIDTH * 0.8).toFixed(2);
    return this.points
      .filter(([, bucket]) => of(bucket))
      .map(([at, bucket]) => `M${this.x(at).toFixed(1)} ${HEIGHT}V${this.y(of(bucket))}h${width}V${HEIGHT}z`)
      .join('');
  }

  /** To the point that is nearest to a share of the width. */
  point(share) {
    const moment = this.from + share * this.span;
    const near = (a, b) => (Math.abs(b[0] - moment) < Math.abs(a[0] - moment) ? b : a);
    this.at = this.points.length ? this.points.reduce(near)[0] : null;
    this.tell();
  }

  leave() {
    this.at = null;
    this.tell();
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -6, PageDown: 6, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step == null || !this.points.length) return;
    event.preventDefault();
    const last = this.points.length - 1;
    const here = this.at == null ? last : this.points.findIndex(([at]) => at === this.at);
    this.at = this.points[Math.min(last, Math.max(0, here + step))][0];
    this.tell();
  }

  /** Says the values at the cursor, or what the lines are. */
  tell() {
    const found = this.at == null ? null : this.points.find(([at]) => at === this.at);
    mark(this.cursor, 'd', found ? `M${this.x(found[0]).toFixed(1)} 0V${HEIGHT}` : '');
    const parts = this.lines.map((line) => `${line.name}${found ? ` ${this.show(line.of(found[1]))}` : ''}`);
    const when = found ? clock(found[0]) : `last ${this.span / 60} min`;
    if (this.legend.childElementCount !== this.lines.length + 1) {
      this.legend.replaceChildren(el('span'), ...this.lines.map((line) => el(`span.key.${line.kind}`)));
    }
    [when, ...parts].forEach((text, n) => say(this.legend.children[n], text));
    mark(this.box, 'aria-valuemax', Math.max(0, this.points.length - 1));
    mark(this.box, 'aria-valuenow', found ? this.points.indexOf(found) : Math.max(0, this.points.length - 1));
    mark(this.box, 'aria-valuetext', found ? [when, ...parts].join(', ') : `${when}; arrow keys tell the values`);
  }
}

/** Shares, 0 to 1. */
export const shares = { scale: (value) => value, marks: () => [0, 0.5, 1] };
/** Times in ms, from 10 ms to 100 s: a first token from the cache and one behind a queue are both to be seen. */
export const times = { scale: (value) => Math.log10(Math.max(value, 10) / 10) / 4, marks: () => [10, 100, 1000, 10000] };
/** From zero to a round number above the highest. */
export const amounts = { scale: (value, top) => value / round(top), marks: (top) => [0, round(top) / 2, round(top)] };

function round(top) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(top, 0.1)));
  return unit * [1, 2, 5, 10].find((n) => n * unit >= Math.max(top, 0.1));
}
