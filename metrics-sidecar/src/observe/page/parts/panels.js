// The cards: figures of now and of the hour, decisions, prefixes, and what the sidecar is connected to.
import { $, el, mark, renew, say } from './dom.js';
import { compact, count, many, ms, percent, rate, span } from './format.js';
import { REASONS, known, sign } from './reasons.js';

/** The figures of a view, in words. */
export function figures({ now, hour, total }) {
  say($('hits-now'), percent(now.hit_ratio));
  say($('hits-hour'), `last hour ${percent(hour.hit_ratio)}, predicted ${percent(hour.predicted_hit_ratio)}`);
  say($('ttft-now'), ms(now.ttft_ms.p50));
  say($('ttft-hour'), `p90 ${ms(now.ttft_ms.p90)}; last hour p50 ${ms(hour.ttft_ms.p50)}, p90 ${ms(hour.ttft_ms.p90)}`);
  say($('load-now'), rate(now.requests / now.span_s));
  say($('load-hour'), `last hour ${count(hour.requests)}: ${percent(hour.requests ? hour.steered / hour.requests : null)} steered`);
  say($('saved-hour'), compact(hour.tokens_saved));
  say($('saved-time'), `GPU time of prefill: ${span(hour.prefill_seconds_saved)}`);
  pairs($('saved-more'), [
    ['Since the sidecar’s start', `${compact(total.tokens_saved)} tokens, ${span(total.prefill_seconds_saved)}`],
    ['Of prompt tokens, last hour', `${compact(hour.matched_tokens)} of ${compact(hour.prompt_tokens)}`],
    ['TTFT p50, mostly cached', ms(hour.ttft_warm_ms.p50)],
    ['TTFT p50, the others', ms(hour.ttft_cold_ms.p50)],
  ]);
}

/** A list of terms and values, changed in place. */
function pairs(list, rows) {
  renew(list, rows.map(([term]) => term).join('\n'), () =>
    rows.map(([term]) => el('div', {}, el('dt', {}, term), el('dd'))));
  rows.forEach(([, value, level], n) => {
    say(list.children[n].lastChild, value);
    mark(list.children[n], 'data-level', level);
  });
}

/** How the requests of the hour were decided, as bars. */
export function reasons(hour) {
  const names = [...new Set([...Object.keys(REASONS), ...Object.keys(hour.reasons)])].filter((name) => hour.reasons[name]);
  const all = names.reduce((sum, name) => sum + hour.reasons[name], 0);
  const list = $('reasons');
  renew(list, names.join() || 'none', () =>
    names.length
      ? names.map((name) => el('li', { title: known(name).says }, sign(name), el('span.word', {}, name), el('div.meter', {}, el('div', { 'data-reason': name })), el('span.value')))
      : [el('li.sub', {}, 'No decision yet.')]);
  names.forEach((name, n) => {
    const share = hour.reasons[name] / all;
    const [, , meter, value] = list.children[n].children;
    meter.firstChild.style.transform = `scaleX(${share})`;
    say(value, `${count(hour.reasons[name])} (${percent(share)})`);
  });
}

/** The beginnings that saved most. */
export function prefixes(list) {
  const box = $('prefixes');
  const key = list.map((one) => Object.values(one).join()).join(';');
  renew(box, key || 'none', () => [
    list.length
      ? el('table', {},
          el('thead', {}, el('tr', {}, ...['Prefix', 'Tokens', 'Hits', 'Saved', 'Pods'].map((title) => el('th', { scope: 'col' }, title)))),
          el('tbody', {}, ...list.map((one) => el('tr', {},
            el('td', {}, el('code', { title: one.prefix }, one.prefix.slice(0, 8))),
            ...[count(one.tokens), count(one.hits), compact(one.tokens_saved), count(one.endpoints)].map((text) => el('td', {}, text))))))
      : el('p.sub', {}, 'No prompt has come twice yet.'),
  ]);
}

/** What the sidecar is connected to. */
export function parts(status, view) {
  const rows = [['Table', status.table ? `version ${status.table.version}, ${span(status.table.age_s)} old` : 'none yet']];
  for (const source of status.sources) {
    const well = source.synced && source.failing_s == null;
    rows.push([`Source ${source.name}`, [well ? `in step, ${many(source.endpoints, 'endpoint')}` : source.error ?? 'not in step', ...source.remarks].join('; '), well ? null : 'warn']);
  }
  for (const feed of status.feeds) {
    rows.push([`Envoy ${feed.peer}`, `${feed.plugin}, for ${span(feed.age_s)}; ${count(feed.journal_slots)} slots, ${many(feed.refills, 'refill')}`]);
  }
  if (!status.feeds.length) rows.push(['Envoy', 'none is connected', 'bad']);
  for (const peer of status.peers) {
    rows.push([`Peer ${peer.address}`, peer.connected ? `followed, ${count(peer.slots)} slots` : peer.error ?? 'not tried yet', peer.error ? 'warn' : null]);
  }
  if (view) {
    rows.push(['Index', `${count(view.entries)} boundaries, ${count(view.evicted)} evicted`]);
    rows.push(['Learned', `${view.bytes_per_token.toFixed(2)} bytes a token, prefill of ${compact(view.prefill_rate)} tokens a second`]);
  }
  pairs($('parts'), rows);
  say($('foot'), `warmpath ${status.version}, sidecar up for ${span(status.uptime_s)}. The same as JSON: /status. For Prometheus: /metrics.`);
}
