// Why requests go where they go. Each reason has a colour and a shape: the colour is never the only sign.
import { svg } from './dom.js';

const circle = (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
const square = (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`;

/** Paths around 0, 0, about 10 wide, filled by the even-odd rule; the colours are `--reason-…` of page.css. */
export const REASONS = {
  warm: { shape: circle(5), says: 'to the endpoint that holds most of the prompt' },
  spill: { shape: 'M0-6L6 0 0 6-6 0z', says: 'another holds more, but this one answers sooner' },
  spread: { shape: 'M0-6L6 5h-12z', says: 'others hold only a beginning that many prompts share, and are busy' },
  cold: { shape: circle(5.5) + circle(2.6), says: 'nobody holds any of it' },
  load_only: { shape: square(5) + square(2.4), says: 'the prompt could not be matched: placed by load' },
  pinned: { shape: square(4.6), says: 'about a stored answer, which is at that endpoint only' },
  shed: { shape: 'M-5-3l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z', says: 'all endpoints are saturated: answered with 429' },
  fallback: { shape: 'M-6-1.5h12v3h-12z', says: "no endpoint to name: Envoy's own balancing decided" },
};
/** What is not known, such as a reason of a newer filter. */
export const OTHER = { shape: circle(3), says: 'a reason that this page does not know' };

export const known = (reason) => REASONS[reason] ?? OTHER;

/** The sign of a reason, as SVG. Its word stands beside it. */
export const sign = (reason) =>
  svg('svg', { class: 'sign', viewBox: '-7 -7 14 14', 'aria-hidden': 'true', 'data-reason': reason },
    svg('path', { d: known(reason).shape, 'fill-rule': 'evenodd' }));
