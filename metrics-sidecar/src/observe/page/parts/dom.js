// Making and changing elements. Text is only ever set as text: nothing that comes from outside is parsed as HTML.

export const $ = (id) => document.getElementById(id);

/** An element: `el('p.sub', {title: 'x'}, 'text', child)`. Attributes that are null are left out. */
export function el(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split('.');
  return fill(Object.assign(document.createElement(tag), classes.length ? { className: classes.join(' ') } : {}), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Sets text only where it changes, so that the page is not laid out again every second for nothing. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The same for an attribute; null removes it. */
export function mark(node, name, value) {
  if (value == null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Replaces the children, unless `key` says that they are the same as last time. */
export function renew(node, key, make) {
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(...make());
}
