// Functions that the elements share: build nodes, write numbers and tokens. Text is only ever set as text, not HTML.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// An SVG, 1000 units wide, that stretches with the page; lines keep their width.
export function picture(height, label, ...children) {
  const box = { viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  return svg("svg", box, ...children);
}

// The token's text with symbols in place of control characters.
export function visible(token) {
  const symbols = { "\n": "↵", "\t": "⇥", "\r": "␍" };
  const shown = token.replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => symbols[c] ?? "�");
  return shown === "" ? "∅" : shown;
}

export function chip(token, kind = "") {
  return el("bdi", { class: `nw-token ${kind}` }, visible(token));
}

// 0.0961 -> "9.6 %" with a no-break space: two significant digits; the exact number is in the title.
export function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0\u00a0%";
  if (value < 0.01) return "<\u00a00.01\u00a0%";
  return `${value >= 99.95 ? "100" : value >= 9.95 ? value.toFixed(0) : value.toPrecision(2)}\u00a0%`;
}

export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

export function count(value) {
  return value.toLocaleString("en");
}

export function exact(value) {
  return value === null || value === undefined ? "–" : String(value).replace("-", "−");
}

export function figures(head, rows) {
  const cells = (tag, row) => row.map((cell) => el(tag, typeof cell === "number" ? { class: "nw-number" } : {}, typeof cell === "number" ? exact(cell) : cell ?? "–"));
  const body = rows.map((row) => el("tr", {}, ...cells("td", row)));
  const titles = el("thead", {}, el("tr", {}, ...head.map((title) => el("th", { scope: "col" }, title))));
  return el("div", { class: "nw-scroll", tabindex: "0", role: "region", "aria-label": "exact numbers" }, el("table", {}, titles, el("tbody", {}, ...body)));
}

// An element that draws itself from `data`: `describe` returns its children. The attribute `expert`, or a click on a
// number, opens its exact numbers.
export class Component extends HTMLElement {
  #data = null;

  constructor() {
    super();
    this.addEventListener("click", ({ target }) => {
      const exactly = this.querySelector(":scope > details");
      if (!exactly || exactly.contains(target) || !target.closest(".nw-number")) return;
      exactly.open = true;
      exactly.scrollIntoView({ block: "nearest" });
    });
  }

  static observedAttributes = ["expert"];

  get data() {
    return this.#data;
  }

  set data(value) {
    this.#data = value;
    this.replaceChildren(...(value === null || value === undefined ? [] : this.describe(value).filter((child) => child !== null)));
    this.attributeChangedCallback();
  }

  attributeChangedCallback() {
    for (const part of this.querySelectorAll(":scope > details")) part.open = this.hasAttribute("expert");
  }

  exactly(summary, ...children) {
    return el("details", {}, el("summary", {}, summary), ...children);
  }
}
