// The live page. Reads /events, shows it, and writes nothing but questions to /explain.
//
// parts/model.js and assess.js say what /status means; lanes.js and dots.js are the pods, charts.js and panels.js the
// cards, explain.js the box. Nothing is kept in the browser.
import { assess } from './parts/assess.js';
import { amounts, Chart, Series, shares, times } from './parts/charts.js';
import { $, el, mark, renew, say } from './parts/dom.js';
import { Explain } from './parts/explain.js';
import { ms, percent, rate, span } from './parts/format.js';
import { LaneList } from './parts/lanes.js';
import { busiest, viewKey } from './parts/model.js';
import { figures, parts, prefixes, reasons } from './parts/panels.js';

/** Without a word for so long, the connection is taken for lost. A status comes every second. */
const SILENT_MS = 5000;
const RETRY_MS = 2000;
const MARKS = {
  none: 'M-1-7h2v14h-2z',
  ok: 'M-7 0l2-2 3 3 7-7 2 2-9 9z',
  note: 'M-1.5-7h3v3h-3zM-1.5-2h3v9h-3z',
  warn: 'M-1.5-7h3v9h-3zM-1.5 4h3v3h-3z',
  bad: 'M-6-4l2-2 4 4 4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4z',
};

const lanes = new LaneList($('lanes'));
const series = new Map();
const charts = [
  new Chart($('chart-hits'), 'Hit ratio', {
    ...shares,
    show: percent,
    lines: [
      { name: 'true', kind: 'line', of: (b) => (b.true_prompt_tokens ? b.true_cached_tokens / b.true_prompt_tokens : null) },
      { name: 'predicted', kind: 'second', of: (b) => (b.prompt_tokens ? b.matched_tokens / b.prompt_tokens : null) },
    ],
  }),
  new Chart($('chart-ttft'), 'TTFT', {
    ...times,
    show: ms,
    lines: [
      { name: 'p50', kind: 'line', of: (b) => b.ttft_p50_ms },
      { name: 'p90', kind: 'second', of: (b) => b.ttft_p90_ms },
    ],
  }),
  new Chart($('chart-load'), 'Requests a second', {
    ...amounts,
    show: rate,
    lines: [{ name: 'a second', kind: 'bars', of: (b) => b.requests / 10 }],
  }),
];
let status = null;
let chosen = null;
/** Seconds since 1970. */
const moment = () => Date.now() / 1000;
const view = () => status?.views.find((one) => viewKey(one) === chosen) ?? null;
const explain = new Explain(() => view()?.plugin);

function take(next) {
  status = next;
  const now = moment();
  for (const one of status.views.filter((each) => each.traffic)) {
    const key = viewKey(one);
    if (!series.has(key)) series.set(key, new Series());
    series.get(key).take(one.traffic.series, now);
  }
  const keys = status.views.map(viewKey);
  if (!keys.includes(chosen)) choose(keys.length ? viewKey(busiest(status.views)) : null);
  const select = $('view');
  $('choose-view').hidden = keys.length < 2;
  renew(select, keys.join('\n'), () => status.views.map((one) => el('option', { value: viewKey(one) }, name(one))));
  select.value = chosen;
  show(now);
}

/** A plugin, with its fingerprint where it has several. */
function name(one) {
  const twins = status.views.filter((each) => each.plugin === one.plugin).length > 1;
  return twins ? `${one.plugin} (${one.fingerprint.slice(0, 6)})` : one.plugin;
}

function choose(key) {
  chosen = key;
  lanes.dots.clear();
}

function show(now) {
  const one = view();
  strip(assess(status, one));
  lanes.update(status, one, now);
  explain.update(status);
  parts(status, one);
  const traffic = one?.traffic;
  mark(document.body, 'data-quiet', traffic?.total.requests ? null : '');
  empty(one);
  if (traffic) {
    figures(traffic);
    reasons(traffic.hour);
    prefixes(traffic.prefixes ?? []);
    for (const chart of charts) chart.draw(series.get(chosen), now);
  }
  $('main').hidden = false;
}

/** The sentence. It is read out when what it means has changed, not with every figure. */
function strip({ level, sentence, problems }) {
  mark($('strip'), 'data-level', level);
  mark($('mark'), 'd', MARKS[level]);
  say($('sentence'), `${sentence}.`);
  // The first one is in the sentence, unless it is only a note.
  const rest = problems.map((one, n) => [n === 0 && one.level !== 'note' ? null : one.text, one.hint].filter(Boolean).join('. '));
  const list = $('problems');
  const shown = problems.filter((_, n) => rest[n]);
  renew(list, shown.map((one) => one.level + one.key).join(), () => shown.map((one) => el('li', { 'data-level': one.level })));
  rest.filter(Boolean).forEach((text, n) => say(list.children[n], /[.:]$/.test(text) ? text : `${text}.`));
  renew($('said'), level + problems.map((one) => one.key).join(), () => [`${sentence}.`]);
  document.title = `${level === 'ok' || level === 'note' ? '' : '! '}${sentence} – warmpath`;
}

/** What to do where nothing has come yet. */
function empty(one) {
  const text = !one
    ? 'Once an Envoy with the filter connects, its requests are seen here.'
    : one.traffic?.total.requests
      ? ''
      : 'No traffic yet. Send a request to the gateway, for example a POST to /v1/chat/completions: it appears below as a dot in the lane of the pod that answers it. Send it again: it should be “warm”.';
  $('empty').hidden = !text;
  say($('empty'), text);
}

let source = null;
let heard = Date.now();
let answers = null;

function connect() {
  source?.close();
  heard = Date.now();
  source = new EventSource('events');
  source.addEventListener('status', (event) => {
    heard = Date.now();
    link('open', 'live');
    take(JSON.parse(event.data));
  });
  source.addEventListener('requests', (event) => {
    heard = Date.now();
    const plugin = view()?.plugin;
    const events = JSON.parse(event.data);
    // Of a page in the background nothing is seen, and the browser holds its frames back.
    if (!document.hidden) lanes.take(events.filter((one) => one.id && one.plugin === plugin));
  });
  source.addEventListener('error', lost);
}

/** The browser tries again by itself only where the connection broke, not where it was refused. */
async function lost() {
  link('lost', `connection lost${status ? ` ${span(Math.round((Date.now() - heard) / 1000))} ago: what is shown is old` : ''}. Trying again`);
  if (source.readyState !== EventSource.CLOSED || answers) return;
  answers = setTimeout(() => { answers = null; connect(); }, RETRY_MS);
  const alive = await fetch('healthz').then((answer) => answer.ok, () => false);
  if (alive && source.readyState === EventSource.CLOSED) link('lost', 'the sidecar runs, but gives no events: are 32 pages open already? Trying again');
}

function link(state, text) {
  mark($('link'), 'data-state', state);
  mark(document.body, 'data-link', state);
  say($('link'), text);
}

setInterval(() => {
  if (Date.now() - heard < SILENT_MS) return;
  link('lost', `no word for ${span(Math.round((Date.now() - heard) / 1000))}: what is shown is old. Trying again`);
  if (Date.now() - heard > 3 * SILENT_MS) connect();
}, 1000);

$('view').addEventListener('change', (event) => {
  choose(event.target.value);
  show(moment());
});
// Dots of requests that ended while the page was hidden would stay.
document.addEventListener('visibilitychange', () => { if (!document.hidden) lanes.dots.clear(); });
connect();
