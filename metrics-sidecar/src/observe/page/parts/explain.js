// "Explain this prompt": asks the sidecar where a request would go, and shows why. What is typed is not kept: not in the
// address, not in the browser's storage, and the box is emptied when the page is left.
import { $, el, mark, renew } from './dom.js';
import { count, endpoint, ms, percent, span } from './format.js';
import { known, sign } from './reasons.js';

const PATHS = ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages'];
/** What a predicted TTFT is made of, in the order in which it passes. */
const SPENT = [
  ['wait', 'wait', (e) => e.wait_s],
  ['overhead', 'constant part', (e) => e.overhead_s],
  ['foreign', 'others’ prefill', (e) => e.foreign_s],
  ['adapter', 'adapter', (e) => e.adapter_s],
  ['prefill', 'prefill', (e) => e.prefill_s],
];

export class Explain {
  /** `plugin` gives the chosen plugin's name. */
  constructor(plugin) {
    this.plugin = plugin;
    this.form = $('explain');
    $('explain-path').append(...PATHS.map((path) => el('option', {}, path)));
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.ask();
    });
    // Ctrl-Enter, as in most boxes of several lines.
    $('prompt').addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    addEventListener('pagehide', () => this.form.reset());
  }

  /** The models of the pods, for a plain prompt. */
  update(status) {
    const models = [...new Set(status.pods.flatMap((pod) => pod.models))].sort();
    const select = $('explain-model');
    const chosen = select.value;
    renew(select, models.join('\n'), () => models.map((model) => el('option', {}, model)));
    if (models.includes(chosen)) select.value = chosen;
  }

  async ask() {
    const button = this.form.querySelector('button');
    const path = $('explain-path').value;
    const plugin = this.plugin();
    mark(button, 'disabled', '');
    try {
      const address = `explain?${new URLSearchParams({ path, ...(plugin && { plugin }) })}`;
      const token = $('explain-token');
      const headers = { 'content-type': 'application/json', ...(token.value && { authorization: `Bearer ${token.value}` }) };
      const answer = await fetch(address, { method: 'POST', headers, body: body(path) });
      const text = await answer.text();
      // A sidecar that others reach explains only to who knows its token.
      if (answer.status === 403) token.parentElement.hidden = false;
      if (!answer.ok) throw new Error(complaint(text) || `the sidecar answered ${answer.status}`);
      show(JSON.parse(text));
    } catch (error) {
      $('explained').replaceChildren(el('p.refusal', {}, `No explanation: ${error.message}`));
    } finally {
      mark(button, 'disabled', null);
    }
  }
}

/** The request that is typed, or one that asks what is typed of the chosen model. */
function body(path) {
  const text = $('prompt').value;
  if (text.trim().startsWith('{')) return text;
  const model = $('explain-model').value;
  const field = { '/v1/completions': 'prompt', '/v1/responses': 'input' }[path];
  const asked = field ? { [field]: text } : { messages: [{ role: 'user', content: text }], ...(path === '/v1/messages' && { max_tokens: 16 }) };
  return JSON.stringify({ model, ...asked });
}

/** What an error says: plain text, or JSON as OpenAI has it. */
function complaint(text) {
  try {
    const { error } = JSON.parse(text);
    return error?.message ?? error ?? text;
  } catch {
    return text.trim();
  }
}

function show(explanation) {
  const { endpoints } = explanation;
  const longest = Math.max(1e-9, ...endpoints.map((e) => e.predicted_ttft_s ?? 0));
  const titles = ['', 'Endpoint', 'Cached', 'In flight', 'Wait', 'Predicted TTFT', 'Cost'];
  $('explained').replaceChildren(
    el('p.verdict', {}, sign(explanation.reason), ' ', verdict(explanation)),
    el('p.sub', {}, facts(explanation)),
    el('div.scroll', { tabindex: 0, role: 'region', 'aria-label': 'Endpoints in the order of preference' },
      el('table', { role: 'table' },
        el('thead', {}, el('tr', {}, ...titles.map((title) => el('th', { scope: 'col' }, title)))),
        el('tbody', {}, ...endpoints.map((e) => row(e, explanation, longest, titles))))),
    el('p.sub.spent', {}, ...SPENT.map(([kind, word]) => el('span', {}, el(`i.${kind}`), ` ${word}`)),
      el('span', {}, 'Cost: TTFT, what is evicted and crowded out, less what is spared.')),
  );
}

function verdict({ choice, rank, reason, endpoints, mode, steer_percent: share, unread }) {
  if (!choice) return `No endpoint would be named (${reason}): ${known(reason).says}.`;
  const chosen = endpoints.find((e) => e.order === 1);
  const found = unread || !chosen ? '' : ` ${count(chosen.matched_tokens)} prompt tokens are believed to be there, ${count(chosen.uncached_tokens)} are to be computed.`;
  const steer = { off: ' Mode off: requests pass unread.', shadow: ' Mode shadow: Envoy balances, this is only counted.' }[mode]
    ?? (share < 100 ? ` ${share} % of requests are steered.` : '');
  return `${endpoint(choice, rank)}, ${reason}: ${known(reason).says}.${found}${steer}`;
}

function facts({ model, pool, kind, unread, prompt_tokens: tokens, boundaries, table_age_s: age }) {
  return [
    unread ? `The prompt could not be matched: ${unread.replaceAll('_', ' ')}.` : `About ${count(tokens)} prompt tokens, ${count(boundaries)} boundaries.`,
    `Model ${model ?? 'not named'}, pool ${pool}, ${kind}. Table ${span(age)} old.`,
  ].join(' ');
}

function row(e, explanation, longest, titles) {
  const out = e.order == null;
  const cells = [
    e.order ?? '–',
    endpoint(e.address, e.rank),
    explanation.unread ? '–' : `${count(e.matched_tokens)}${explanation.prompt_tokens ? ` (${percent(e.matched_tokens / explanation.prompt_tokens)})` : ''}`,
    count(e.in_flight),
    span(e.wait_s),
    ms(e.predicted_ttft_s == null ? null : e.predicted_ttft_s * 1000),
    out ? e.excluded ?? 'not chosen' : span(e.cost_s),
  ].map((text, n) => el('td', { 'data-title': titles[n] }, String(text)));
  if (!out && e.predicted_ttft_s > 0) cells[5].append(bar(e, longest));
  if (e.saturated) cells[6].append(' (saturated)');
  return el('tr', { class: e.order === 1 ? 'first' : out ? 'out' : null }, ...cells);
}

function bar(e, longest) {
  return el('div.spent', { 'aria-hidden': 'true' }, ...SPENT.filter(([, , of]) => of(e) > 0).map(([kind, , of]) => {
    const part = el(`i.${kind}`);
    part.style.width = `${(of(e) / longest) * 100}%`;
    return part;
  }));
}
