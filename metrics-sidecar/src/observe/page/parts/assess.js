// How things stand, in one sentence, and what is wrong, the worst first. Pure: what comes from /status goes in, words
// come out.
import { many, ms, percent, span } from './format.js';
import { lanes, trouble } from './model.js';

const LEVELS = ['ok', 'note', 'warn', 'bad'];
/** A table is built about once a second; older than this, the sidecar is stuck. */
const OLD_TABLE_S = 10;
/** Requests that a figure must stand for before anything is said about it. */
const ENOUGH = 20;

/** `{level, sentence, problems: [{key, level, text, hint}]}`. `view` is null where no Envoy was ever connected. */
export function assess(status, view) {
  const rows = lanes(status, view);
  const problems = [
    ...ofPods(status, rows),
    ...ofParts(status, view),
    ...(view?.traffic ? ofTraffic(view, rows) : []),
  ].sort((a, b) => LEVELS.indexOf(b.level) - LEVELS.indexOf(a.level));
  const level = problems[0]?.level ?? 'ok';
  return { level, sentence: sentence(problems[0], rows, view?.traffic), problems };
}

function sentence(worst, rows, traffic) {
  const serious = worst && worst.level !== 'note';
  return [serious ? worst.text : pods(rows), ...figures(traffic)].join('; ');
}

function pods(rows) {
  const addresses = new Set(rows.map((row) => row.pod.address)).size;
  const ready = rows.filter((row) => row.choosable).length;
  const ranks = rows.length > addresses ? ` with ${rows.length} ranks` : '';
  return `${many(addresses, 'pod')}${ranks}, ${ready === rows.length ? 'all' : ready} ready`;
}

/** Of the last 10 s, or of the hour where those saw too little. */
function figures(traffic) {
  const both = traffic && [traffic.now, traffic.hour];
  const t = both?.find((one) => one.requests >= 5 && (one.hit_ratio != null || one.ttft_ms.p50 != null));
  if (!t) return [];
  const found = t.hit_ratio == null ? [] : [`${percent(t.hit_ratio)} of prompt tokens from cache`];
  const first = t.ttft_ms.p50 == null ? [] : [`TTFT p50 ${ms(t.ttft_ms.p50)}`];
  const when = t === traffic.now ? [] : ['in the last hour'];
  return [[...found, ...first].join('; ') + (when.length ? `, ${when}` : '')];
}

function ofPods(status, rows) {
  if (!status.ready) {
    return [{ key: 'no-table', level: 'warn', text: 'No table yet', hint: 'Pods are being found, or scraped for the first time.' }];
  }
  if (!rows.length) {
    return [{ key: 'no-pods', level: 'bad', text: 'No pods found', hint: 'Envoy balances by itself. Check what the sidecar is to look for: its sources are below.' }];
  }
  const out = rows.filter((row) => !row.choosable);
  const problems = [];
  if (out.length === rows.length) {
    problems.push({ key: 'no-choice', level: 'bad', text: 'No pod may be chosen', hint: 'Requests go where Envoy balances them.' });
  }
  for (const state of new Set(out.map((row) => row.state))) {
    const these = out.filter((row) => row.state === state);
    const names = [...new Set(these.map((row) => row.name))];
    const more = names.length > 2 ? ` and ${names.length - 2} more` : '';
    problems.push({
      key: `pods-${state}-${names.length}`,
      level: state === 'draining' ? 'note' : 'warn',
      text: `${names.length} of ${many(new Set(rows.map((row) => row.name)).size, 'pod')} ${state}: ${names.slice(0, 2).join(', ')}${more}`,
      hint: trouble(these[0]) || null,
    });
  }
  return problems;
}

function ofParts(status, view) {
  const problems = [];
  const age = status.table?.age_s ?? 0;
  if (age > OLD_TABLE_S) {
    problems.push({ key: 'old-table', level: 'bad', text: `The table is ${span(age)} old`, hint: 'The sidecar does not scrape: it may lack CPU, or hang.' });
  }
  for (const source of status.sources.filter((one) => one.failing_s != null || !one.synced)) {
    problems.push({
      key: `source-${source.name}`,
      level: 'warn',
      text: `Source not in step${source.failing_s == null ? '' : ` for ${span(source.failing_s)}`}: ${source.name}`,
      hint: [source.error, 'Its last pods stay in force.'].filter(Boolean).join('. '),
    });
  }
  if (!status.feeds.length || (view && !view.streams)) {
    problems.push({
      key: 'no-envoy',
      level: 'bad',
      text: view && status.feeds.length ? `No Envoy with plugin ${view.plugin} is connected` : 'No Envoy is connected',
      hint: 'Is the filter loaded and its mode not off, and does its cluster for the sidecar point here? Envoys steer on with the last table they have.',
    });
  }
  const away = status.peers.filter((peer) => peer.error);
  if (away.length) {
    problems.push({
      key: `peers-${away.length}`,
      level: 'warn',
      text: `${away.length} of ${many(status.peers.length, 'peer')} not connected: ${away[0].address}`,
      hint: `${away[0].error}. What that replica routes is not known here.`,
    });
  }
  return problems;
}

function ofTraffic(view, rows) {
  const { now, hour } = view.traffic;
  const problems = [];
  // Of a filter that does not tell its configuration, the mode is only the default.
  const mode = view.config_known ? view.mode : null;
  if (mode === 'off' || mode === 'shadow') {
    const what = mode === 'off' ? 'requests pass unread' : 'requests are decided and counted';
    problems.push({ key: 'mode', level: 'note', text: `Mode ${mode}`, hint: `${what}, and go where Envoy balances them.` });
  } else if (mode === 'steer' && view.steer_percent < 100) {
    problems.push({ key: 'mode', level: 'note', text: `${view.steer_percent} % of requests are steered`, hint: 'The others are watched.' });
  }
  if (mode === 'steer' && now.requests >= ENOUGH && !now.steered) {
    problems.push({
      key: 'not-steered',
      level: 'warn',
      text: 'None of the last requests was steered, and the mode is steer',
      hint: 'All are fallback, or the mode was changed: the sidecar hears of that when Envoy drops the old configuration.',
    });
  }
  if (!hour.requests) {
    problems.push({ key: 'no-requests', level: 'note', text: 'No requests in the last hour', hint: null });
    return problems;
  }
  if (hour.requests >= ENOUGH && !hour.true_prompt_tokens) {
    problems.push({
      key: 'no-true-hits',
      level: 'warn',
      text: 'The pods do not tell what they found in their caches',
      hint: 'Start vLLM with --enable-prompt-tokens-details, and for streams with --enable-force-include-usage.',
    });
  }
  const off = now.requests >= ENOUGH && now.predicted_hit_ratio - now.hit_ratio;
  if (now.hit_ratio != null && off > 0.2) {
    problems.push({
      key: 'stale',
      level: 'warn',
      text: `Fewer hits than predicted: ${percent(now.hit_ratio)}, not ${percent(now.predicted_hit_ratio)}`,
      hint: 'A pod lost its cache, or the prompts differ in what the filter does not see.',
    });
  }
  const slow = slower(now, hour, rows);
  return slow ? [...problems, slow] : problems;
}

/** Whether first tokens come much later than they did in this hour, and what it may come from. */
function slower(now, hour, rows) {
  const [p50, usual] = [now.ttft_ms.p50, hour.ttft_ms.p50];
  if (!rows.length || p50 == null || usual == null || now.requests < ENOUGH || p50 < 2 * usual || p50 - usual < 100) return null;
  return { key: 'slow', level: 'warn', text: `TTFT p50 is ${ms(p50)}, in the last hour ${ms(usual)}`, hint: cause(now, hour, rows) };
}

function cause(now, hour, rows) {
  const waiting = rows.map((row) => row.waiting).sort((a, b) => a - b);
  const all = waiting.reduce((sum, n) => sum + n, 0);
  const middle = waiting[Math.floor((waiting.length - 1) / 2)] ?? 0;
  const worst = rows.reduce((a, b) => (b.waiting > a.waiting ? b : a));
  const rates = [now.requests / now.span_s, hour.requests / hour.span_s];
  if (now.hit_ratio != null && now.hit_ratio < hour.hit_ratio - 0.15) {
    return `Routing: the hit ratio fell from ${percent(hour.hit_ratio)} to ${percent(now.hit_ratio)}. New prompts, or caches that were lost.`;
  }
  if (rows.length > 1 && worst.waiting >= 4 && worst.waiting > 3 * (middle + 1)) {
    return `A pod: ${many(worst.waiting, 'request')} wait at ${worst.name}, at the others about ${middle}.`;
  }
  if (all >= rows.length) return `Load: ${many(all, 'request')} wait over all pods. More pods, or fewer requests.`;
  if (rates[0] > 1.5 * rates[1]) return `Load: ${rates[0].toFixed(1)} requests a second, in the last hour ${rates[1].toFixed(1)}.`;
  return 'Neither routing nor queues: longer prompts, or slower pods.';
}
