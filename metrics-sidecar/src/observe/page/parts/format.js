// Figures for people. Not known is an en dash everywhere.

const NONE = '–';
const SPACE = '\u00a0';
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const shown = (value, show) => (value == null || Number.isNaN(value) ? NONE : show(value));

/** 12,345 */
export const count = (value) => shown(value, whole.format);
/** 12.3K */
export const compact = (value) => shown(value, (v) => (Math.abs(v) < 1000 ? whole.format(v) : short.format(v)));
/** Of 0 to 1: 95 %. Not rounded to what it is not, nothing or all. */
export const percent = (value) =>
  shown(value, (v) => (v > 0.99 && v < 1 ? (Math.floor(v * 1000) / 10).toFixed(1) : v > 0 && v < 0.005 ? '<1' : whole.format(v * 100)) + SPACE + '%');
/** A rate: 0.4, 12. */
export const rate = (value) => shown(value, (v) => (v && v < 10 ? v.toFixed(1) : whole.format(v)));
/** Milliseconds: 72 ms, 1.58 s. */
export const ms = (value) =>
  shown(value, (v) => (v < 1000 ? whole.format(v) + SPACE + 'ms' : span(v / 1000)));
/** Seconds: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min. */
export const span = (value) =>
  shown(value, (v) => {
    if (v < 10) return v.toFixed(v < 0.095 ? 2 : v < 1 ? 1 : 2).replace(/\.?0+$/, '') + SPACE + 's';
    if (v < 60) return whole.format(v) + SPACE + 's';
    const [big, small, of] = v < 3600 ? ['min', 's', 60] : v < 172800 ? ['h', 'min', 3600] : ['d', 'h', 86400];
    const rest = Math.floor((v % of) / (of === 86400 ? 3600 : of / 60));
    return Math.floor(v / of) + SPACE + big + (rest ? ` ${rest}${SPACE}${small}` : '');
  });
/** The time of day of a moment, in seconds since 1970. */
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString('en-GB');
/** 1 pod, 2 pods. */
export const many = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
/** An endpoint: a pod's address, with the rank if it has several. */
export const endpoint = (address, rank) => (rank == null ? address : `${address} rank ${rank}`);
