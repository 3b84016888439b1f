// Requests in flight, as dots in their pod's lane: left of the line they wait for their first token, right of it they
// are being answered. One canvas a lane; only what moves and can be seen is drawn.
import { known } from './reasons.js';

/** More are not drawn; the figures beside the lane still count them. */
const MOST = 1500;
/** Of requests that were decided, and not yet routed, or whose end was not seen. */
const MOST_REMEMBERED = 4000;
const STEP = 13;
const EASE_MS = 130;
/** Where the first token stands, as a share of the lane. */
export const LINE = 0.45;

export class Dots {
  constructor() {
    this.lanes = new Map();
    this.requests = new Map();
    this.still = matchMedia('(prefers-reduced-motion: reduce)');
    this.drawn = 0;
    this.frame = null;
    this.last = 0;
    this.shapes = new Map();
    this.colours();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      this.colours();
      for (const lane of this.lanes.values()) this.wake(lane);
    });
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const lane = this.lanes.get(target.dataset.lane);
        if (!lane) continue;
        lane.visible = isIntersecting;
        this.wake(lane);
      }
    });
    this.sized = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) this.resize(target, contentRect.width, contentRect.height);
    });
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (reason) => style.getPropertyValue(`--reason-${reason}`) || style.getPropertyValue('--muted');
    this.ink = style.getPropertyValue('--muted');
  }

  shape(reason) {
    if (!this.shapes.has(reason)) this.shapes.set(reason, new Path2D(known(reason).shape));
    return this.shapes.get(reason);
  }

  /** A lane's canvas. */
  add(key, canvas) {
    canvas.dataset.lane = key;
    this.lanes.set(key, { canvas, pen: canvas.getContext('2d'), dots: [], visible: true, moving: false, width: 0, height: 0, over: 0 });
    this.seen.observe(canvas);
    this.sized.observe(canvas);
  }

  remove(key) {
    const lane = this.lanes.get(key);
    if (!lane) return;
    this.seen.unobserve(lane.canvas);
    this.sized.unobserve(lane.canvas);
    this.drawn -= lane.dots.length;
    this.lanes.delete(key);
  }

  clear() {
    this.requests.clear();
    this.drawn = 0;
    for (const lane of this.lanes.values()) {
      lane.dots = [];
      this.wake(lane);
    }
  }

  resize(canvas, width, height) {
    const lane = this.lanes.get(canvas.dataset.lane);
    if (!lane) return;
    Object.assign(lane, { width, height });
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    this.wake(lane);
  }

  /** One event of a request. `key` is its lane, where it has one. */
  take(event, key) {
    const { id, event: what } = event;
    if (what === 'decided') {
      this.remember(id, { reason: event.reason });
      return;
    }
    const request = this.requests.get(id);
    if (what === 'routed') {
      if (request?.dot) this.leave(request.dot, true);
      const dot = this.land(key, event.reason ?? request?.reason, event.peer);
      this.remember(id, { reason: event.reason ?? request?.reason, dot });
    } else if (what === 'first_token' && request?.dot) {
      request.dot.answered = true;
      this.wake(request.dot.lane);
    } else if ((what === 'done' || what === 'void') && request) {
      this.requests.delete(id);
      if (request.dot) this.leave(request.dot, what === 'void');
    }
  }

  remember(id, request) {
    this.requests.delete(id);
    this.requests.set(id, request);
    if (this.requests.size > MOST_REMEMBERED) this.requests.delete(this.requests.keys().next().value);
  }

  land(key, reason, peer) {
    const lane = this.lanes.get(key);
    if (!lane || this.drawn >= MOST) return null;
    const dot = { lane, reason, peer, x: -8, y: lane.height / 2, seen: 1, answered: false, gone: false, lost: false };
    lane.dots.push(dot);
    this.drawn += 1;
    this.wake(lane);
    return dot;
  }

  leave(dot, lost) {
    Object.assign(dot, { gone: true, lost });
    this.wake(dot.lane);
  }

  /** What /status counts in flight. Dots whose end was not told (a batch that was cut) go after some seconds. */
  reconcile(key, inFlight) {
    const lane = this.lanes.get(key);
    if (!lane || inFlight == null) return;
    const here = lane.dots.filter((dot) => !dot.gone);
    lane.over = here.length > inFlight ? lane.over + 1 : 0;
    if (lane.over >= 3) for (const dot of here.slice(0, here.length - inFlight)) this.leave(dot, false);
  }

  wake(lane) {
    lane.moving = true;
    this.frame ??= requestAnimationFrame((now) => this.tick(now));
  }

  tick(now) {
    const passed = Math.min(100, now - this.last);
    this.last = now;
    this.frame = null;
    let moving = false;
    for (const lane of this.lanes.values()) {
      if (!lane.moving) continue;
      lane.moving = this.move(lane, this.still.matches || !lane.visible ? null : 1 - Math.exp(-passed / EASE_MS));
      moving ||= lane.moving;
      if (lane.visible) this.draw(lane);
    }
    if (moving) this.frame = requestAnimationFrame((at) => this.tick(at));
  }

  /** Moves each dot a share of the way to its place, or all of it (null). Whether any still moves. */
  move(lane, share) {
    const line = lane.width * LINE;
    const rows = Math.max(1, Math.floor(lane.height / STEP));
    const fits = (width) => Math.max(1, Math.floor((width - 6) / STEP)) * rows;
    // To the left from the line those who wait, from the line to the right those who are answered.
    const place = [
      { next: 0, fits: fits(line), x: (column) => line - 8 - column * STEP },
      { next: 0, fits: fits(lane.width - line - 20), x: (column) => line + 9 + column * STEP },
    ];
    const kept = [];
    lane.hidden = [0, 0];
    let moving = false;
    for (const dot of lane.dots) {
      let [x, y, seen] = [dot.x, dot.y, 1];
      if (dot.gone) {
        [x, y, seen] = dot.lost ? [dot.x, lane.height + 8, 0] : [dot.x + 30, dot.y, 0];
      } else {
        const side = place[dot.answered ? 1 : 0];
        const n = side.next++;
        if (n >= side.fits) lane.hidden[dot.answered ? 1 : 0] += 1;
        x = side.x(Math.floor(Math.min(n, side.fits - 1) / rows));
        y = (lane.height * ((n % rows) + 0.5)) / rows;
      }
      const far = Math.abs(x - dot.x) + Math.abs(y - dot.y) > 0.4;
      const step = share == null || (!far && !dot.gone) ? 1 : share;
      dot.x += (x - dot.x) * step;
      dot.y += (y - dot.y) * step;
      dot.seen += (seen - dot.seen) * step;
      if (dot.gone && dot.seen < 0.05) {
        this.drawn -= 1;
        continue;
      }
      moving ||= step < 1;
      kept.push(dot);
    }
    lane.dots = kept;
    return moving;
  }

  draw(lane) {
    const { pen, width, height } = lane;
    const scale = devicePixelRatio;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = this.ink;
    pen.globalAlpha = 0.45;
    pen.fillRect(Math.round(width * LINE), 0, 1, height);
    const size = height < 20 ? 0.8 : 1;
    for (const dot of lane.dots) {
      pen.setTransform(scale * size, 0, 0, scale * size, dot.x * scale, dot.y * scale);
      pen.globalAlpha = dot.seen * (dot.peer ? 0.5 : 1);
      pen.fillStyle = this.colour(dot.reason);
      pen.fill(this.shape(dot.reason), 'evenodd');
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.globalAlpha = 1;
    pen.fillStyle = this.ink;
    pen.font = '11px system-ui, sans-serif';
    pen.textBaseline = 'middle';
    if (lane.hidden?.[0]) pen.fillText(`+${lane.hidden[0]}`, 2, height / 2);
    if (lane.hidden?.[1]) pen.fillText(`+${lane.hidden[1]}`, width - 24, height / 2);
  }
}
